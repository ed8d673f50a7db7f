"""Smoothing changes how range is shared between activations and weights, and nothing that the graph computes."""

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import FUSED, U8S8, build, run

from edgebuild.graph.framework import checked_passes
from edgebuild.graph.invariants import check_graph
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.quantize.insert import insert
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.smooth import smooth, smoothable

WIDTH = 24


def weights(seed: int, *, outlier: float) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    scale = np.ones(WIDTH, np.float32)
    scale[5] = outlier
    return {
        "scale": scale,
        "shift": random.standard_normal(WIDTH).astype(np.float32),
        "w": random.standard_normal((WIDTH, 17)).astype(np.float32),
        "v": random.standard_normal((WIDTH, 11)).astype(np.float32),
    }


BODIES = {
    "alone": "n = LayerNormalization(x, scale, shift) y = MatMul(n, w)",
    "shared": "n = LayerNormalization(x, scale, shift) a = MatMul(n, w) b = MatMul(n, v) y = Concat <axis = -1> (a, b)",
    "also read in float": "n = LayerNormalization(x, scale, shift) a = MatMul(n, w) y = Concat <axis = -1> (a, n)",
}


def model_of(form: str, *, outlier: float = 100.0, seed: int = 0) -> ir.Model:
    used = weights(seed, outlier=outlier)
    if "v)" not in BODIES[form]:
        del used["v"]
    return build(f"g (float[B,S,{WIDTH}] x) => (float[B,S,M] y) {{ {BODIES[form]} }}", used)


def inputs(shape: tuple[int, ...] = (2, 7, WIDTH), seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def result(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run(ir.to_proto(model), feeds)["y"]


def largest(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Largest magnitude of each channel of ``n``, by numpy."""
    x = feeds["x"].astype(np.float64)
    used = weights(0, outlier=100.0)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return {"n": np.abs(normal * used["scale"] + used["shift"]).max(axis=(0, 1))}


@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.75, 1.0])
def test_the_float_graph_computes_the_same(form: str, alpha: float) -> None:
    feeds = inputs()
    plain, smoothed = model_of(form), model_of(form)
    with checked_passes():
        assert smooth(smoothed, largest(plain, feeds), alpha=alpha) == 1
        DeadCodeElimination()(smoothed)
    check_graph(smoothed)
    expected, got = result(plain, feeds), result(smoothed, feeds)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


@pytest.mark.parametrize(("form", "nodes"), [("alone", 0), ("shared", 0), ("also read in float", 1)])
def test_the_division_goes_into_the_norm_where_only_products_read_it(form: str, nodes: int) -> None:
    model = model_of(form)
    smooth(model, largest(model, inputs()), alpha=0.5)
    assert sum(node.op_type == "Mul" for node in model.graph) == nodes


def test_channels_without_an_outlier_are_left_alone() -> None:
    model = model_of("alone", outlier=1.0)
    assert smooth(model, {"n": np.linspace(1.0, 1.5, WIDTH)}, alpha=0.5) == 0


def test_channels_that_are_never_seen_keep_their_weights() -> None:
    model = model_of("alone")
    absmax = largest(model, inputs())["n"]
    absmax[3] = 0.0
    before = find_layers(model.graph)[0].weight_array()[3].copy()
    smooth(model, {"n": absmax}, alpha=0.5)
    np.testing.assert_array_equal(find_layers(model.graph)[0].weight_array()[3], before)


def test_statistics_of_another_width_are_ignored() -> None:
    model = model_of("alone")
    assert smooth(model, {"n": np.arange(1.0, 9.0)}, alpha=0.5) == 0
    assert smooth(model, {}, alpha=0.5) == 0


def test_products_of_one_activation_are_found_together() -> None:
    groups = smoothable(model_of("shared").graph)
    assert {name: len(layers) for name, layers in groups.items()} == {"n": 2}


@pytest.mark.parametrize("seed", range(3))
def test_an_outlying_channel_costs_dynamic_products_less_noise_once_smoothed(seed: int) -> None:
    feeds = inputs(seed=seed)
    expected = result(model_of("alone"), feeds)

    def noise(alpha: float | None) -> float:
        model = model_of("alone")
        if alpha is not None:
            smooth(model, largest(model, feeds), alpha=alpha)
        insert(model, Plan(modes={find_layers(model.graph)[0].name: "dynamic"}), U8S8, FUSED)
        return float(np.mean((result(model, feeds) - expected) ** 2))

    assert noise(0.5) < 0.25 * noise(None)
