"""Splitting outlying channels changes how finely they are rounded, and nothing that the graph computes."""

import json
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import FUSED, U8S8, build, run

from edgebuild.errors import InternalError
from edgebuild.graph.framework import checked_passes
from edgebuild.graph.invariants import check_graph
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.quantize.copies import MOST_COPIES, Split, choose_copies
from edgebuild.quantize.insert import insert
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan, Smoothing
from edgebuild.quantize.smooth import smooth
from edgebuild.quantize.split import split_channels

Array = np.ndarray[Any, Any]


def model_of(channels: int, seed: int, *, body: str = "", transposed: bool = False) -> ir.Model:
    """Two products that read one activation."""
    random = np.random.default_rng(seed)
    weights = {name: random.standard_normal((channels, n)).astype(np.float32) for name, n in (("w", 17), ("v", 11))}
    if transposed:
        weights = {name: weight.T.copy() for name, weight in weights.items()}
        body = body or "a = Gemm <transB = 1> (x, w) b = Gemm <transB = 1> (x, v)"
        return build(f"g (float[N,{channels}] x) => (float[N,17] a, float[N,11] b) {{ {body} }}", weights)
    body = body or "a = MatMul(x, w) b = MatMul(x, v)"
    return build(f"g (float[B,S,{channels}] x) => (float[B,S,17] a, float[B,S,11] b) {{ {body} }}", weights)


def results(model: ir.Model, feeds: dict[str, Array]) -> dict[str, Array]:
    return run(ir.to_proto(model), feeds)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("steps", [0.0, 0.3])
def test_the_float_graph_computes_the_same(seed: int, transposed: bool, steps: float) -> None:
    random = np.random.default_rng(seed)
    channels = int(random.integers(17, 60))
    chosen = tuple(sorted(map(int, random.choice(channels, 3, replace=False))))
    split = Split(channels=chosen, copies=(3, 9, MOST_COPIES), steps=(steps, 2 * steps, steps))
    plain = model_of(channels, seed, transposed=transposed)
    model = model_of(channels, seed, transposed=transposed)
    shape = (5, channels) if transposed else (2, 5, channels)
    feeds = {"x": random.standard_normal(shape).astype(np.float32) * 10}
    with checked_passes():
        assert list(split_channels(model, {"x": split})) == ["x"]
        DeadCodeElimination()(model)
    check_graph(model)
    expected, got = results(plain, feeds), results(model, feeds)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-3)
    assert {layer.weight_shape[1 if transposed else 0] for layer in find_layers(model.graph)} == {
        channels + 2 + 8 + MOST_COPIES - 1
    }


def test_layers_that_stay_float_read_the_activation_as_it_is() -> None:
    split = Split(channels=(1,), copies=(3,), steps=(0.0,))
    model = model_of(32, 0)
    first, second = find_layers(model.graph)
    split_channels(model, {"x": split, "of another graph": split}, {first.name})
    after = {layer.name: layer for layer in find_layers(model.graph)}
    assert after[first.name].weight_shape[0] == 34
    assert after[second.name].weight_shape[0] == 32
    assert after[second.name].data.name == "x"


def test_a_split_of_a_channel_that_is_not_there_is_refused() -> None:
    with pytest.raises(InternalError, match="channel 32 of 'x', which has 32"):
        split_channels(model_of(32, 0), {"x": Split(channels=(0, 32), copies=(3, 3), steps=(0.0, 0.0))})


@pytest.mark.parametrize("seed", range(20))
def test_copies_are_odd_within_the_columns_and_none_is_larger_than_need_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    magnitudes = np.exp(random.standard_normal(int(random.integers(1, 200))) * random.uniform(0, 3))
    most = int(random.integers(0, 40))
    copies = choose_copies(magnitudes, most)
    assert (copies % 2 == 1).all()
    assert copies.max() <= MOST_COPIES
    assert (copies - 1).sum() <= most
    largest = (magnitudes / copies).max()
    assert largest <= magnitudes.max()
    # One column less for any channel, or a smaller limit, can't do better: brute force over all limits.
    for limit in magnitudes[:, None] / np.arange(1, MOST_COPIES + 1, 2):
        for of in limit:
            wanted = np.ceil(magnitudes / of * (1 - 1e-9))
            wanted = np.where(wanted <= 1, 1, wanted // 2 * 2 + 1)
            if wanted.max() <= MOST_COPIES and (wanted - 1).sum() <= most:
                assert largest <= (magnitudes / wanted).max() * 1.001


@pytest.mark.parametrize("magnitudes", [np.zeros(5), np.zeros(0), np.full(4, 1e-40), np.array([1e38, 1.0])])
def test_strange_magnitudes_are_survived(magnitudes: Array) -> None:
    copies = choose_copies(magnitudes.astype(np.float64), 10)
    assert copies.shape == magnitudes.shape
    assert (copies >= 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_outlying_channels_cost_dynamic_products_less_noise_once_split_and_shifts_take_off_more(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal((3, 40, 64)).astype(np.float32)
    x[..., [5, 40]] *= np.float32([9, 12])
    expected = results(model_of(64, seed), {"x": x})["a"]
    step = float(x.max() - x.min()) / 12 / 255

    def noise(steps: tuple[float, float] | None) -> float:
        model = model_of(64, seed)
        if steps is not None:
            split_channels(model, {"x": Split(channels=(5, 40), copies=(9, 13), steps=steps)})
        modes = {layer.name: "dynamic" for layer in find_layers(model.graph)}
        insert(model, Plan(modes=modes), U8S8, FUSED)  # type: ignore[arg-type]
        return float(np.mean((results(model, {"x": x})["a"] - expected) ** 2))

    whole, alike, shifted = noise(None), noise((0.0, 0.0)), noise((9 * step, 13 * step))
    assert alike < 0.6 * whole
    assert shifted < 0.8 * alike


def test_smoothing_goes_into_the_division_of_split_channels() -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 7, 48)).astype(np.float32) * np.exp(random.standard_normal(48)).astype(np.float32)
    plain, model = model_of(48, 1), model_of(48, 1)
    absmax = {"x": np.abs(x).max(axis=(0, 1)).astype(np.float64)}
    split = Split(channels=(3, 17), copies=(3, 5), steps=(0.01, 0.02))
    assert smooth(model, absmax, alpha=0.6, splits={"x": split}) == 1
    DeadCodeElimination()(model)
    assert sum(node.op_type == "Mul" for node in model.graph) == 1
    for name, expected in results(plain, {"x": x}).items():
        np.testing.assert_allclose(results(model, {"x": x})[name], expected, rtol=1e-4, atol=1e-3)


def test_smoothing_leaves_alone_what_no_quantised_layer_reads() -> None:
    model = model_of(48, 1)
    assert smooth(model, {"x": np.arange(1.0, 49.0)}, layers=set()) == 0
    assert smooth(model, {"x": np.arange(1.0, 49.0)}, layers={find_layers(model.graph)[0].name}) == 1


def plan_of(split: Split) -> Plan:
    return Plan(modes={}, smoothing=Smoothing(alpha=0.5, absmax={"x": (1.0, 2.0)}, splits={"x": split}))


def test_a_plan_with_splits_survives_the_way_into_decisions_and_back() -> None:
    plan = plan_of(Split(channels=(0, 1), copies=(3, 5), steps=(0.25, 1e-9)))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "triples",
    [
        [[0, 2, 0.0]],
        [[0, 65, 0.0]],
        [[0, 1, 0.0]],
        [[-1, 3, 0.0]],
        [[1, 3, 0.0], [1, 3, 0.0]],
        [[0, 3, -1.0]],
        [[0, 3, float("inf")]],
        [[0, 3]],
        [],
        "x",
        [[0, "three", 0.0]],
    ],
)
def test_splits_that_nobody_wrote_are_refused(triples: Any) -> None:
    data = plan_of(Split(channels=(0,), copies=(3,), steps=(0.0,))).to_json()
    data["smoothing"]["splits"]["x"] = triples
    with pytest.raises(ValueError, match=r"plan|ascending"):
        Plan.from_json(data)
