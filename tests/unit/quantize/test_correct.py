"""Bias correction takes off what rounding the weights adds to the outputs on average."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import (
    EVERYTHING,
    FUSED,
    PER_TENSOR,
    SEVEN_BIT,
    STANDARD,
    U8S8,
    all_values,
    build,
    plan_for,
    proto_of,
    quantised,
    run,
    vector,
    weight,
)

from edgebuild.errors import InternalError
from edgebuild.quantize.correct import correctable, input_means
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.statistics import ChannelStatistics
from edgebuild.targets.spec import QuantizationScheme

C = 24
WEIGHTS = {
    "w": weight(20, C, 3, 3),
    "g": weight(20, C // 4, 3, 3, seed=2),
    "d": weight(C, 1, 5, 5, seed=3),
    "n": weight(C, 20, seed=4),
    "t": np.ascontiguousarray(weight(C, 20, seed=4).T),
    "b": vector(20),
    "c": vector(C),
    "row": vector(20).reshape(1, 20),
}
IMAGE = f"g (float[2,{C},12,13] x) => (float[?,?,?,?] y)"
ROWS = f"g (float[64,{C}] x) => (float[?,?] y)"
TOKENS = f"g (float[3,21,{C}] x) => (float[?,?,?] y)"
FORMS = {
    "convolution": (IMAGE, "y = Conv (x, w, b)"),
    "grouped": (IMAGE, "y = Conv <group = 4> (x, g, b)"),
    "depthwise": (IMAGE, f"y = Conv <group = {C}> (x, d, c)"),
    "Gemm": (ROWS, "y = Gemm(x, n, b)"),
    "transposed Gemm": (ROWS, "y = Gemm <transB = 1> (x, t, row)"),
    "MatMul and Add": (TOKENS, "m = MatMul(x, n) y = Add(b, m)"),
}


def model_of(form: str) -> ir.Model:
    head, body = FORMS[form]
    names = {name for name in WEIGHTS if any(f"{before}{name}{after}" in body for before in " (" for after in ",)")}
    return build(f"{head} {{ {body} }}", {name: WEIGHTS[name] for name in sorted(names)})


def feeds_of(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    """All above 0, and each channel with a mean of its own, as behind a ReLU."""
    random = np.random.default_rng(seed)
    shape = [int(size) for size in model.graph.inputs[0].shape or ()]
    axis = 1 if len(shape) == 4 else -1
    level = np.random.default_rng(9).uniform(0.2, 3, C)
    return {
        "x": (
            random.uniform(0, 1, shape) * np.expand_dims(level, tuple(range(1, len(shape) - axis % len(shape))))
        ).astype(np.float32)
    }


def means_of(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, tuple[float, ...]]:
    values = all_values(proto_of(model), feeds)
    channels = {}
    for name, axis in correctable(model.graph).items():
        rows = np.moveaxis(values[name], axis, 0).reshape(values[name].shape[axis], -1).astype(np.float64)
        zeros = np.zeros(len(rows))
        channels[name] = ChannelStatistics(
            axis=axis, count=rows.shape[1], low=zeros, high=zeros, mean=rows.mean(1), mean_square=zeros
        )
    return input_means(model.graph, channels)


def mean_error(model: ir.Model, plan: Plan, scheme: QuantizationScheme, forms: Forms) -> float:
    """Root mean square over channels of the mean error of each, on data that nothing was measured on."""
    total = []
    for seed in range(10, 14):
        feeds = feeds_of(model, seed)
        error = run(quantised(model, plan, scheme=scheme, forms=forms), feeds)["y"] - run(proto_of(model), feeds)["y"]
        axis = 1 if error.ndim == 4 else error.ndim - 1
        total.append(np.moveaxis(error, axis, 0).reshape(error.shape[axis], -1).mean(1))
    return float(np.sqrt(np.mean(np.mean(total, axis=0) ** 2)))


@pytest.mark.parametrize("scheme", [U8S8, SEVEN_BIT, PER_TENSOR], ids=["8 bits", "7 bits", "per tensor"])
@pytest.mark.parametrize("forms", [STANDARD, FUSED], ids=["standard", "fused"])
@pytest.mark.parametrize("form", FORMS)
def test_outputs_are_no_longer_shifted(form: str, forms: Forms, scheme: QuantizationScheme) -> None:
    model = model_of(form)
    plan = plan_for(model, feeds_of(model, 0), forms=forms)
    corrected = replace(plan, means=means_of(model, feeds_of(model, 0)))
    before, after = (mean_error(model, one, scheme, forms) for one in (plan, corrected))
    assert after < before / 3, (before, after)


@pytest.mark.parametrize("form", ["Gemm", "MatMul and Add"])
def test_products_on_ranges_of_each_run_are_corrected_too(form: str) -> None:
    model = model_of(form)
    plan = plan_for(model, feeds_of(model, 0), "dynamic", forms=FUSED)
    corrected = replace(plan, means=means_of(model, feeds_of(model, 0)))
    before, after = (mean_error(model, one, SEVEN_BIT, FUSED) for one in (plan, corrected))
    assert after < before / 3, (before, after)


def test_a_product_between_two_others_keeps_its_add() -> None:
    """Read by a quantiser only, it stays MatMul and Add."""
    body = "m = MatMul(x, n) a = Add(m, b) r = Relu(a) o = MatMul(r, v) y = Add(o, e)"
    more = {"n": WEIGHTS["n"], "b": WEIGHTS["b"], "v": weight(20, 16, seed=8), "e": vector(16, seed=4)}
    model = build(f"{TOKENS} {{ {body} }}", more)
    feeds = feeds_of(model, 0)
    plan = plan_for(model, feeds, operators=EVERYTHING, forms=STANDARD)
    corrected = replace(plan, means=means_of(model, feeds))
    assert len(corrected.means) == 2
    before, after = (mean_error(model, one, PER_TENSOR, STANDARD) for one in (plan, corrected))
    assert after < before / 2, (before, after)


def test_the_correction_is_the_error_of_the_weights_times_the_means() -> None:
    model = model_of("Gemm")
    feeds = feeds_of(model, 0)
    plan = replace(plan_for(model, feeds), means=means_of(model, feeds))
    proto = quantised(model, plan, scheme=SEVEN_BIT)
    found = {i.name: np.asarray(ir.from_proto(i).numpy()) for i in proto.graph.initializer}
    steps = np.max(np.abs(WEIGHTS["n"]), axis=0) / 63
    error = np.rint(WEIGHTS["n"] / steps) * steps - WEIGHTS["n"]
    expected = WEIGHTS["b"] - feeds["x"].astype(np.float64).mean(0) @ error
    np.testing.assert_allclose(found["n_bias_quantized"] * found["n_bias_scale"], expected, atol=2e-4)


def test_layers_without_bias_or_statistics_have_no_means() -> None:
    model = build(f"{IMAGE} {{ y = Conv (x, w) }}", {"w": WEIGHTS["w"]})
    assert correctable(model.graph) == {}
    assert input_means(model_of("convolution").graph, {}) == {}


def test_a_plan_with_means_of_another_layer_is_refused() -> None:
    model = model_of("convolution")
    plan = plan_for(model, feeds_of(model, 0))
    name = next(iter(plan.modes))
    with pytest.raises(InternalError, match=f"has 3 means for '{name}', expected {C}"):
        quantised(model, replace(plan, means={name: (1.0, 2.0, 3.0)}))


def test_means_of_layers_that_stay_float_are_left_aside() -> None:
    model = model_of("convolution")
    plan = plan_for(model, feeds_of(model, 0))
    assert quantised(model, replace(plan, means={"elsewhere": (1.0,)})) == quantised(model, plan)
