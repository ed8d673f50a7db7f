"""Tuning of products: its estimate against what rounding really does, and what it chooses."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import build

from edgebuild.cache import Cache
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.plan import Mode
from edgebuild.quantize.product_forms import (
    FLOAT,
    Form,
    SampledRows,
    _Activation,
    balanced_forms,
    cheap_form,
    float_form,
    possible_forms,
)
from edgebuild.quantize.smooth import smoothing_factors
from edgebuild.quantize.tune import Tuned, sample_rows, tune_products

SCALED: tuple[Mode, ...] = ("dynamic", "rowwise")
ALL: tuple[Mode, ...] = (*SCALED, "blockwise")

Array = np.ndarray[Any, Any]


def layers_of(weights: dict[str, Array], *, transposed: bool = False) -> tuple[Layer, ...]:
    """Products that read one activation."""
    k = next(iter(weights.values())).shape[1 if transposed else 0]
    outputs = ", ".join(f"float[N,{w.shape[0 if transposed else 1]}] y_{n}" for n, w in weights.items())
    attribute = "<transB = 1> " if transposed else ""
    body = " ".join(f"y_{name} = Gemm {attribute}(x, {name})" for name in weights)
    return find_layers(build(f"g (float[N,{k}] x) => ({outputs}) {{ {body} }}", weights).graph)


def rounded(array: Array, step: Array | float, low: float, high: float) -> Array:
    return np.clip(np.rint(array / step), low, high) * step


def noise_by_doing(rows: Array, weight: Array, factors: Array | None, *, scaled: bool) -> float:
    """The same as the estimate, with activations rounded for real."""
    rows, weight = rows.astype(np.float64), weight.astype(np.float64)
    signal = np.square(rows @ weight).sum(axis=1)
    exact = rows @ weight
    if factors is not None:
        rows, weight = rows / factors, weight * factors[:, None]
    sizes = np.abs(rows).max(axis=1, keepdims=True) if scaled else np.ones((len(rows), 1))
    ranged = rows / sizes
    step = (max(ranged.max(), 0) - min(ranged.min(), 0)) / 255
    integers = rounded(weight, np.abs(weight).max(axis=0) / 127, -127, 127)
    noise = np.square(np.rint(ranged / step) * step * sizes @ integers - exact).sum(axis=1)
    return float(np.mean(noise / signal) + noise.sum() / signal.sum())


def sampled(rows: Array, heard: Array | None = None) -> SampledRows:
    return SampledRows(rows=rows, heard=np.ones(len(rows), bool) if heard is None else heard)


def estimate(rows: Array, weight: Array, factors: Array | None, copies: Array, *, heard: Array | None = None) -> Any:
    activation = _Activation(sampled(rows, heard), layers_of({"w": weight}), reduce_range=False)
    return activation.noises(factors, copies, ALL)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.5, 0.85])
def test_the_estimate_is_what_rounding_does(
    seed: int, scaled: bool, alpha: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebuild.quantize.product_forms._ROUNDED", 1.0)  # weights are rounded to the nearest here
    random = np.random.default_rng(seed)
    k, n = int(random.integers(33, 130)), int(random.integers(17, 90))
    rows = (random.standard_normal((257, k)) * np.exp(random.standard_normal(k))).astype(np.float32)
    weight = (random.standard_normal((k, n)) / np.sqrt(k)).astype(np.float32)
    factors = None
    if alpha is not None:
        factors = smoothing_factors(np.abs(rows).max(axis=0).astype(np.float64), np.abs(weight).max(axis=1), alpha)
        assert factors is not None
    noise, _ = estimate(rows, weight, factors, np.ones(k, np.int64))["rowwise" if scaled else "dynamic"]
    assert noise == pytest.approx(noise_by_doing(rows, weight, factors, scaled=scaled), rel=0.35)


def test_rows_that_nobody_hears_share_the_range_and_count_for_nothing_else() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((300, 48)).astype(np.float32)
    weight = random.standard_normal((48, 32)).astype(np.float32)
    heard = np.arange(300) < 100
    ones = np.ones(48, np.int64)
    of_heard = estimate(rows[:100], weight, None, ones)
    loud = rows.copy()
    loud[200] *= 50  # padding with a huge value: it takes the range of each run from all, but not that of other rows
    both = estimate(loud, weight, None, ones, heard=heard)
    assert both["dynamic"][0] > 100 * of_heard["dynamic"][0]
    assert both["rowwise"][0] == pytest.approx(of_heard["rowwise"][0], rel=0.1)


def best(rows: Array, layers: tuple[Layer, ...], *, modes: tuple[Mode, ...] = SCALED) -> tuple[Form, Form]:
    """The cheap form and the balanced one."""
    forms = possible_forms(sampled(rows), layers, reduce_range=False, modes=modes)
    assert forms[0].split is None
    assert forms[0].mode == "dynamic"
    work = float(sum(layer.weight_size for layer in layers))
    return cheap_form(forms), balanced_forms({"x": forms}, {"x": work})["x"]


def test_a_huge_row_asks_for_scaled_rows() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((200, 64)).astype(np.float32)
    rows[::50] *= 100
    layers = layers_of({"w": random.standard_normal((64, 48)).astype(np.float32)})
    for form in best(rows, layers):
        assert form.mode == "rowwise"
    assert all(form.mode == "dynamic" for form in best(rows, layers, modes=("dynamic",)))


def test_a_huge_channel_asks_for_smoothing_and_is_split_where_there_is_time() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((200, 640)).astype(np.float32)
    rows[:, 7] *= 30
    for transposed in (False, True):
        weights = {name: random.standard_normal((640, 480)).astype(np.float32) for name in ("q", "k")}
        layers = layers_of({n: w.T.copy() if transposed else w for n, w in weights.items()}, transposed=transposed)
        cheap, balanced = best(rows, layers)
        assert cheap.alpha > 0
        assert cheap.split is None
        assert balanced.split is not None
        assert 7 in balanced.split.channels
        assert balanced.noise < cheap.noise


def test_narrow_products_are_not_worth_splitting_for() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((200, 640)).astype(np.float32)
    rows[:, 7] *= 30
    _, balanced = best(rows, layers_of({"w": random.standard_normal((640, 3)).astype(np.float32)}))
    assert balanced.split is None


def test_even_rows_and_channels_stay_as_they_are() -> None:
    random = np.random.default_rng(3)
    rows = random.uniform(-1, 1, (200, 64)).astype(np.float32)
    cheap, _ = best(rows, layers_of({"w": random.uniform(-1, 1, (64, 48)).astype(np.float32)}))
    assert cheap.mode == "dynamic"
    assert cheap.split is None


@pytest.mark.parametrize("rows", [np.zeros((5, 64), np.float32), np.full((1, 64), 3e-38, np.float32)])
def test_nothing_to_go_by_is_no_noise(rows: Array) -> None:
    for form in best(rows, layers_of({"w": np.ones((64, 48), np.float32)})):
        assert 0 <= form.alpha <= 1
        assert form.mode == "dynamic"


def test_the_rewritten_graph_takes_the_strength_of_each_activation(tmp_path: Path) -> None:
    from edgebuild.quantize.candidate import write_rewritten
    from edgebuild.quantize.plan import Smoothing

    random = np.random.default_rng(4)
    model = build(
        "g (float[N,64] x) => (float[N,32] y) { a = MatMul(x, w1) r = Relu(a) y = MatMul(r, w2) }",
        {n: random.standard_normal(s).astype(np.float32) for n, s in (("w1", (64, 48)), ("w2", (48, 32)))},
    )
    path = tmp_path / "graph.onnx"
    ir.save(model, path)
    wide = tuple(float(x) for x in np.exp(random.standard_normal(64) * 2))
    for alphas, count in (({"x": 0.0, "r": 0.0}, 0), ({"x": 0.5, "r": 0.0}, 1), ({}, 2)):
        smoothing = Smoothing(alpha=0.5, absmax={"x": wide, "r": wide[:48]}, alphas=alphas)
        rewritten = ir.load(write_rewritten(path, tmp_path / "out.onnx", smoothing=smoothing))
        assert sum(node.op_type == "Mul" for node in rewritten.graph) == count


def test_rows_of_inputs_and_of_values_inside_without_those_that_are_not_finite(
    tmp_path: Path, cache: Cache, opener: Any
) -> None:
    """A model of a single product reads its input alone: there is nothing inside to look at."""
    weights = {"w": np.random.default_rng(5).standard_normal((24, 16)).astype(np.float32)}
    model = build("g (float[N,24] x) => (float[N,16] y) { y = MatMul(x, w) }", weights)
    path = tmp_path / "graph.onnx"
    ir.save(model, path)
    random = np.random.default_rng(6)
    batches = [{"x": random.standard_normal((count, 24)).astype(np.float32)} for count in (3, 1, 5, 7)]
    batches[0]["x"][1, 3] = np.inf
    given = np.concatenate([batch["x"] for batch in batches])
    finite = np.isfinite(given).all(axis=1)
    found = sample_rows(path, ["x"], batches, opener, cache)
    np.testing.assert_array_equal(found["x"].rows, given[finite])
    assert found["x"].heard.all()
    found = sample_rows(path, ["x", "y"], batches, opener, cache)
    np.testing.assert_allclose(found["y"].rows, given[finite] @ weights["w"], rtol=1e-4, atol=1e-4)
    products = {"x": find_layers(model.graph)}
    tuned = tune_products(path, products, batches, opener, cache, reduce_range=False, modes=SCALED)
    assert tuned.rows == {"x": 4.0}  # 3, 1, 5 and 7
    assert tuned.work == {"x": 24 * 16}
    tuning = tuned.tuning(tuned.cheap())
    np.testing.assert_array_equal(tuning.smoothing.absmax["x"], np.abs(given[finite]).max(axis=0))
    assert not list((tmp_path / "cache").rglob("graph.onnx"))


def blockwise_by_doing(rows: Array, weight: Array) -> float:
    """Blocks of 128 input channels, weights and rows with a scale for each, -127 to 127."""
    rows, weight = rows.astype(np.float64), weight.astype(np.float64)
    exact, got = rows @ weight, np.zeros((len(rows), weight.shape[1]))
    for begin in range(0, rows.shape[1], 128):
        part, of_weight = rows[:, begin : begin + 128], weight[begin : begin + 128]
        got += rounded(part, np.abs(part).max(axis=1, keepdims=True) / 127, -127, 127) @ rounded(
            of_weight, np.abs(of_weight).max(axis=0) / 127, -127, 127
        )
    noise, signal = np.square(got - exact).sum(axis=1), np.square(exact).sum(axis=1)
    return float(np.mean(noise / signal) + noise.sum() / signal.sum())


@pytest.mark.parametrize("depth", [48, 128, 300])
def test_the_estimate_of_blockwise_products_is_what_rounding_does(depth: int) -> None:
    random = np.random.default_rng(depth)
    rows = (random.standard_normal((200, depth)) * np.exp(random.standard_normal((200, 1)))).astype(np.float32)
    weight = random.standard_normal((depth, 40)).astype(np.float32)
    noise, _ = estimate(rows, weight, None, np.ones(depth, np.int64))["blockwise"]
    assert noise == pytest.approx(blockwise_by_doing(rows, weight), rel=0.35)


def test_every_mode_has_a_form_and_blockwise_ones_are_never_split() -> None:
    random = np.random.default_rng(2)
    rows = random.standard_normal((200, 640)).astype(np.float32)
    rows[:, 7] *= 30
    layers = layers_of({"w": random.standard_normal((640, 480)).astype(np.float32)})
    forms = possible_forms(sampled(rows), layers, reduce_range=False, modes=ALL)
    assert {form.mode for form in forms} == set(ALL)
    assert all(form.split is None for form in forms if form.mode == "blockwise")
    assert cheap_form(forms).mode != "blockwise"
    # Nothing takes the smoothing in: that it takes time is worth a form without.
    whole = [form for form in forms if form.split is None and form.mode == "dynamic"]
    assert [bool(form.alpha) for form in sorted(whole, key=lambda form: form.work)] == [False, True]
    assert len({(form.mode, form.work) for form in forms}) == len(forms)


def test_what_is_split_is_smoothed_as_suits_each_mode_whatever_others_are_legal() -> None:
    random = np.random.default_rng(5)
    rows = random.standard_normal((200, 320)) * np.exp(random.standard_normal(320) + random.standard_normal((200, 1)))
    rows[:, 7] *= 30
    rows[3, 11] = 300.0
    layers = layers_of({"w": random.standard_normal((320, 240)).astype(np.float32)})

    def split(*modes: Mode) -> dict[tuple[Mode | Literal["float"], float], float]:
        forms = possible_forms(sampled(rows.astype(np.float32)), layers, reduce_range=False, modes=modes)
        return {(form.mode, form.work): form.noise for form in forms if form.split is not None}

    together = split("dynamic", "rowwise")
    for mode in SCALED:
        for key, noise in split(mode).items():
            assert together[key] <= noise
    assert split("dynamic", "rowwise", "blockwise") == split("dynamic", "rowwise", "two_terms") == together


def test_float_has_no_noise_and_takes_longest() -> None:
    form = Form(alpha=0.5, mode="rowwise", split=None, noise=0.1, work=5.0)
    left = float_form(form, 100.0)
    assert (left.mode, left.noise, left.work, left.alpha) == ("float", 0.0, FLOAT * 100.0, 0.5)


def test_a_tuning_names_the_modes_of_layers_that_are_not_plainly_dynamic() -> None:
    layers = layers_of({"q": np.ones((32, 16), np.float32), "k": np.ones((32, 16), np.float32)})
    plain = Form(alpha=0.5, mode="dynamic", split=None, noise=0.1, work=0.0)
    for mode, modes in (("dynamic", {}), ("blockwise", {layer.name: "blockwise" for layer in layers})):
        form = Form(alpha=0.35, mode=mode, split=None, noise=0.1, work=1.0)  # type: ignore[arg-type]
        tuned = Tuned(products={"x": layers}, forms={"x": (plain, form)}, absmax={"x": (1.0,) * 32}, rows={"x": 1.0})
        tuning = tuned.tuning({"x": form})
        assert tuning.modes == modes
        assert tuning.smoothing.alphas == {"x": 0.35}
