"""Adaptive rounding brings a layer's outputs nearer to float's, and a plan's text alone gives the same integers again."""

import itertools
import json
import zlib
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import (
    FUSED,
    PER_TENSOR,
    SEVEN_BIT,
    U8S8,
    build,
    plan_for,
    proto_of,
    quantised,
    run,
    vector,
    weight,
)

from edgebuild.errors import InternalError
from edgebuild.graph.io import save_model
from edgebuild.quantize.adaround import _DAMPING, adaptive_roundings, apply_rounding, pack_rounding
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.weights import quantize_weight
from edgebuild.targets.spec import QuantizationScheme

C = 24
WEIGHTS = {
    "w": weight(20, C, 3, 3),
    "g": weight(20, C // 4, 3, 3, seed=2),
    "d": weight(C, 1, 5, 5, seed=3),
    "line": weight(20, C, 3, seed=6),
    "n": weight(C, 20, seed=4),
    "t": np.ascontiguousarray(weight(C, 20, seed=4).T),
    "b": vector(20),
    "c": vector(C),
}
IMAGE = f"g (float[1,{C},12,13] x) => (float[?,?,?,?] y)"
FORMS = {
    "convolution": (IMAGE, "y = Conv (x, w, b)"),
    "strides, pads, dilations": (
        IMAGE,
        "y = Conv <strides = [2, 1], pads = [2, 0, 1, 3], dilations = [1, 2]> (x, w, b)",
    ),
    "grouped": (IMAGE, "y = Conv <group = 4> (x, g)"),
    "depthwise": (IMAGE, f"y = Conv <group = {C}, pads = [2, 2, 2, 2]> (x, d, c)"),
    "one axis": (f"g (float[1,{C},61] x) => (float[?,?,?] y)", "y = Conv <strides = [3]> (x, line, b)"),
    "Gemm": (f"g (float[64,{C}] x) => (float[?,?] y)", "y = Gemm(x, n, b)"),
    "transposed Gemm": (f"g (float[64,{C}] x) => (float[?,?] y)", "y = Gemm <transB = 1> (x, t, b)"),
    "MatMul and Add": (f"g (float[3,21,{C}] x) => (float[?,?,?] y)", "m = MatMul(x, n) y = Add(m, b)"),
}


def model_of(form: str) -> ir.Model:
    head, body = FORMS[form]
    names = {name for name in WEIGHTS if f" {name}," in body or f" {name})" in body}
    return build(f"{head} {{ {body} }}", {name: WEIGHTS[name] for name in sorted(names)})


def batches(model: ir.Model, seed: int, count: int = 12) -> list[dict[str, np.ndarray]]:
    """Channels that go together, as those of trained nets do, and all above 0."""
    random = np.random.default_rng(seed)
    shape = [int(size) for size in model.graph.inputs[0].shape or ()]
    image = find_layers(model.graph)[0].kind == "conv"
    mixing = np.random.default_rng(5).standard_normal((4, C))
    found = []
    for _ in range(count):
        places = [size for axis, size in enumerate(shape) if axis != (1 if image else len(shape) - 1)]
        x = np.abs(random.standard_normal((*places, 4)) @ mixing + 0.3 * random.standard_normal((*places, C)))
        found.append({"x": np.ascontiguousarray(np.moveaxis(x, -1, 1) if image else x, np.float32)})
    return found


def saved(model: ir.Model, folder: Path) -> Path:
    path = folder / "graph.onnx"
    save_model(model, path, external_threshold=1 << 20)
    return path


def noise(model: ir.Model, plan: Plan, scheme: QuantizationScheme, forms: Forms) -> float:
    total = 0.0
    for feeds in batches(model, seed=77, count=4):
        exact = run(proto_of(model), feeds)["y"]
        total += float(np.sum((run(quantised(model, plan, scheme=scheme, forms=forms), feeds)["y"] - exact) ** 2))
    return total


@pytest.mark.parametrize("form", FORMS)
def test_outputs_come_nearer_to_those_of_float(form: str, tmp_path: Path, opener: Any) -> None:
    model = model_of(form)
    data = batches(model, seed=1)
    schemes = (SEVEN_BIT, U8S8, PER_TENSOR)
    names = [layer.name for layer in find_layers(model.graph)]
    found = adaptive_roundings(saved(model, tmp_path), names, schemes, lambda: data, opener, tmp_path)
    assert {name: set(packed) for name, packed in found.items()} == {names[0]: {"63", "127", "63-tensor"}}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] in ([], ["cache"])
    for scheme in (SEVEN_BIT, PER_TENSOR):
        before, after = (weights_noise(model, packed, scheme) for packed in ({}, found[names[0]]))
        assert after < before / 1.5, (before, after)
    plan = plan_for(model, data[0], forms=FUSED, widen=1.2)
    rounded = Plan.from_json(json.loads(json.dumps(replace(plan, roundings=found).to_json())))
    assert noise(model, rounded, SEVEN_BIT, FUSED) < noise(model, plan, SEVEN_BIT, FUSED)


def weights_noise(model: ir.Model, packed: Mapping[str, str], scheme: QuantizationScheme) -> float:
    """Noise of the float graph with integer weights, its activations exact."""
    layer = find_layers(model.graph)[0]
    array, axis = layer.weight_array(), layer.channel_axis
    if layer.transposed:
        array, axis = array.T, 1
    integers = quantize_weight(array, axis, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range)
    if packed:
        integers = apply_rounding(layer, integers, packed["63" if scheme.per_channel else "63-tensor"])
    assert np.abs(integers.values).max() <= 63
    values = integers.dequantized().T if layer.transposed else integers.dequantized()
    changed = ir.from_proto(proto_of(model))
    name = layer.weight.name or ""
    changed.graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(values), name=name)
    total = 0.0
    for feeds in batches(model, seed=78, count=4):
        exact, got = run(proto_of(model), feeds)["y"], run(proto_of(changed), feeds)["y"]
        total += float(np.sum((got - exact) ** 2))
    return total


def test_roundings_are_nearly_the_best_that_there_are(
    tmp_path: Path, opener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 2^16 ways to round each row up or down, tried: for the very data that was seen, so nothing is to be distrusted."""
    monkeypatch.setattr("edgebuild.quantize.adaround._DAMPING", 0.01)
    depth, width = 16, 16
    array = weight(depth, width, seed=11)
    model = build(f"g (float[50,{depth}] x) => (float[?,?] y) {{ y = Gemm(x, v) }}", {"v": array})
    random = np.random.default_rng(12)
    mixing = random.standard_normal((3, depth))
    data = [
        {"x": (random.standard_normal((50, 3)) @ mixing + 0.2 * random.standard_normal((50, depth))).astype(np.float32)}
        for _ in range(4)
    ]
    layer = find_layers(model.graph)[0]
    found = adaptive_roundings(saved(model, tmp_path), [layer.name], [SEVEN_BIT], lambda: data, opener, tmp_path)
    nearest = quantize_weight(array, 1, reduce_range=True)
    rounded = apply_rounding(layer, nearest, found[layer.name]["63"])
    rows = np.concatenate([feeds["x"] for feeds in data]).astype(np.float64)
    moments = rows.T @ rows
    ways = np.array(list(itertools.product((0.0, 1.0), repeat=depth)))
    ratios = []
    for column in range(width):
        steps = float(nearest.scales[column])
        exact = array[:, column].astype(np.float64) / steps

        def error(integers: np.ndarray, exact: np.ndarray = exact) -> np.ndarray:
            off = integers - exact
            return np.asarray(np.einsum("...i,ij,...j->...", off, moments, off, optimize=True))

        best = float(error(np.floor(exact) + ways).min())
        got, plain = (float(error(one.values[:, column].astype(np.float64))) for one in (rounded, nearest))
        ratios.append((got / best, plain / best))
    typical = np.median(ratios, axis=0)
    assert typical[0] < 2
    assert typical[1] > 2 * typical[0]


def test_inputs_that_never_occur_are_rounded_to_the_nearest(tmp_path: Path, opener: Any) -> None:
    model = model_of("Gemm")
    data = batches(model, seed=3)
    for feeds in data:
        feeds["x"][:, 7] = 0
    layer = find_layers(model.graph)[0]
    found = adaptive_roundings(saved(model, tmp_path), [layer.name], [U8S8], lambda: data, opener, tmp_path)
    nearest = quantize_weight(layer.weight_array(), 1)
    rounded = apply_rounding(layer, nearest, found[layer.name]["127"])
    np.testing.assert_array_equal(rounded.values[7], nearest.values[7])
    assert np.any(rounded.values != nearest.values)


@pytest.mark.parametrize("form", ["Gemm", "convolution"])
def test_rows_that_are_not_finite_say_nothing(form: str, tmp_path: Path, opener: Any) -> None:
    model = model_of(form)
    layer = find_layers(model.graph)[0]
    data = batches(model, seed=3)
    infinite = [{"x": np.full_like(feeds["x"], np.inf)} for feeds in data[:2]]
    graph = saved(model, tmp_path)

    def found(samples: list[dict[str, np.ndarray]]) -> dict[str, dict[str, str]]:
        return adaptive_roundings(graph, [layer.name], [U8S8], lambda: samples, opener, tmp_path)

    # All rows are few enough to be taken, so that none is picked at random.
    small = [{"x": feeds["x"][:64, ..., :8, :8] if form != "Gemm" else feeds["x"]} for feeds in data]
    assert found([*small, *infinite]) == found(small)


def test_only_named_layers_are_done_and_none_after_the_time_is_up(tmp_path: Path, opener: Any) -> None:
    body = "a = Gemm(x, n, b) r = Relu(a) y = Gemm(r, v)"
    head = f"g (float[64,{C}] x) => (float[?,?] y)"
    model = build(f"{head} {{ {body} }}", {"n": WEIGHTS["n"], "b": WEIGHTS["b"], "v": weight(20, 16, seed=9)})
    graph, data = saved(model, tmp_path), batches(model, seed=3)
    first, second = (layer.name for layer in find_layers(model.graph))
    done: list[tuple[int, int]] = []

    def found(*names: str, seconds: float = 60) -> set[str]:
        roundings = adaptive_roundings(
            graph, names, [U8S8], lambda: data, opener, tmp_path, seconds=seconds, progress=lambda *x: done.append(x)
        )
        return set(roundings)

    assert found(second, "nobody") == {second}
    assert found(first, second) == {first, second}
    assert done == [(1, 1), (1, 2), (2, 2)]
    assert found(first, second, seconds=0) == set()


def test_the_same_data_gives_the_same_roundings(tmp_path: Path, opener: Any) -> None:
    model = model_of("convolution")
    graph, data = saved(model, tmp_path), batches(model, seed=3)
    names = [layer.name for layer in find_layers(model.graph)]
    first, second = (adaptive_roundings(graph, names, [U8S8], lambda: data, opener, tmp_path) for _ in range(2))
    assert first == second


def test_a_rounding_of_another_scheme_is_not_used(tmp_path: Path) -> None:
    model = model_of("Gemm")
    plan = plan_for(model, batches(model, seed=1)[0])
    ones = pack_rounding(np.ones((C, 20), np.int8))
    other = replace(plan, roundings={next(iter(plan.modes)): {"63": ones}})
    assert quantised(model, other, scheme=U8S8) == quantised(model, plan, scheme=U8S8)
    assert quantised(model, other, scheme=SEVEN_BIT) != quantised(model, plan, scheme=SEVEN_BIT)


def test_no_rounding_leaves_the_range_of_the_weights() -> None:
    layer = find_layers(model_of("Gemm").graph)[0]
    nearest = quantize_weight(layer.weight_array(), 1, reduce_range=True)
    assert nearest.values.max() == 63
    rounded = apply_rounding(layer, nearest, pack_rounding(np.full((C, 20), 127, np.int8)))
    assert rounded.values.max() == 63


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        ("%%%", "can't be read"),
        ("äöü", "can't be read"),
        (b64encode(b"nothing of the kind").decode(), "can't be read"),
        (b64encode(zlib.compress(bytes(479))).decode(), "not of 480 weights"),
        (b64encode(zlib.compress(bytes(481))).decode(), "not of 480 weights"),
        (b64encode(zlib.compress(bytes(1 << 24))).decode(), "not of 480 weights"),
        (b64encode(zlib.compress(bytes(480))[:-6]).decode(), "not of 480 weights"),
        ("", "not of 480 weights"),
    ],
)
def test_what_is_no_rounding_of_the_weight_is_refused(packed: str, words: str) -> None:
    model = model_of("Gemm")
    plan = plan_for(model, batches(model, seed=1)[0])
    name = next(iter(plan.modes))
    with pytest.raises(InternalError, match=f"rounding of '{name}'.*{words}"):
        quantised(model, replace(plan, roundings={name: {"127": packed}}), scheme=U8S8)


@pytest.mark.parametrize("seed", range(3))
def test_few_samples_are_distrusted_so_that_other_data_gains_too(
    seed: int, tmp_path: Path, opener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer rows than inputs, of which rounding has to hold for others of their kind."""
    depth, width = 96, 40
    array = weight(depth, width, seed=seed)
    model = build(f"g (float[50,{depth}] x) => (float[?,?] y) {{ y = Gemm(x, v) }}", {"v": array})
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((depth, depth)) * np.exp(-np.arange(depth) / 20)[:, None]
    rows = (random.standard_normal((4096, depth)) @ mixing).astype(np.float32)
    layer = find_layers(model.graph)[0]
    nearest = quantize_weight(array, 1)

    def left(damping: float) -> float:
        """Noise on other rows, of that which rounding to the nearest has."""
        monkeypatch.setattr("edgebuild.quantize.adaround._DAMPING", damping)
        data = [{"x": rows[:50]}]
        folder = tmp_path / str(damping)
        folder.mkdir()
        found = adaptive_roundings(saved(model, folder), [layer.name], [U8S8], lambda: data, opener, folder / "h")
        rounded = apply_rounding(layer, nearest, found[layer.name]["127"])
        errors = [np.square(rows[50:] @ (one.dequantized() - array)).sum() for one in (rounded, nearest)]
        return float(errors[0] / errors[1])

    usual, trusting = left(_DAMPING), left(1e-4)
    assert usual < trusting
    assert usual < 0.9
