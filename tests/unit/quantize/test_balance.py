"""Each activation is smoothed as strongly as its own expected noise asks for."""

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import FUSED, U8S8, all_values, build, plan_for, proto_of, quantised, run, sqnr, vector, weight

from edgebuild.quantize.balance import balanced_smoothing
from edgebuild.quantize.candidate import apply_smoothing
from edgebuild.quantize.smooth import smoothable
from edgebuild.quantize.statistics import ChannelStatistics

WIDTH = 48
BODY = "n = LayerNormalization(x, scale, shift) a = MatMul(n, w) h = Add(a, b) r = Relu(h) y = MatMul(r, v)"


def model_of(outlier: float, seed: int = 0) -> ir.Model:
    """Some channels of the norm are ``outlier`` times as wide, and the weights that read them smaller, as in trained transformers."""
    scale = np.ones(WIDTH, np.float32)
    scale[[5, 31]] = outlier
    first = weight(WIDTH, 40, seed=seed) / scale[:, None] ** np.float32(0.8)
    weights = {
        "scale": scale,
        "shift": vector(WIDTH),
        "w": first.astype(np.float32),
        "b": vector(40),
        "v": weight(40, 20, seed=seed + 1),
    }
    return build(f"g (float[B,S,{WIDTH}] x) => (float[B,S,20] y) {{ {BODY} }}", weights)


def inputs(seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((4, 31, WIDTH)).astype(np.float32)}


def statistics(model: ir.Model) -> dict[str, ChannelStatistics]:
    values = all_values(proto_of(model), inputs(1))
    found = {}
    for name in smoothable(model.graph):
        rows = values[name].reshape(-1, values[name].shape[-1]).astype(np.float64)
        found[name] = ChannelStatistics(
            axis=-1,
            count=len(rows),
            low=rows.min(0),
            high=rows.max(0),
            mean=rows.mean(0),
            mean_square=np.square(rows).mean(0),
        )
    return found


def smoothed(model: ir.Model, **options: float) -> ir.Model:
    smoothing = balanced_smoothing(model.graph, statistics(model), **options)
    copy = ir.from_proto(ir.to_proto(model))
    apply_smoothing(copy, smoothing)
    return copy


def int8_noise(model: ir.Model, exact: ir.Model) -> float:
    fresh = inputs(2)
    plan = plan_for(model, inputs(1), forms=FUSED)
    return sqnr(run(proto_of(exact), fresh)["y"], run(quantised(model, plan, scheme=U8S8, forms=FUSED), fresh)["y"])


@pytest.mark.parametrize("outlier", [30.0, 300.0])
def test_outlying_channels_are_smoothed_for_the_better_and_exactly(outlier: float) -> None:
    model = model_of(outlier)
    changed = smoothed(model)
    expected, got = run(proto_of(model), inputs(3))["y"], run(proto_of(changed), inputs(3))["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    assert int8_noise(changed, model) > int8_noise(model, model) + 3


def test_only_what_gains_is_smoothed() -> None:
    model = model_of(100.0)
    assert set(smoothable(model.graph)) == {"n", "r"}
    found = balanced_smoothing(model.graph, statistics(model))
    assert found is not None
    assert set(found.absmax) == {"n"}
    assert balanced_smoothing(model.graph, statistics(model), worth=1e-6) is None
    assert balanced_smoothing(model_of(1.0).graph, statistics(model_of(1.0))) is None


def test_the_factors_that_were_judged_are_those_that_are_applied() -> None:
    model = model_of(100.0)
    found = balanced_smoothing(model.graph, statistics(model))
    assert found is not None
    changed = smoothed(model)
    norm = next(node for node in changed.graph if node.op_type == "LayerNormalization")
    before, after = model.graph.initializers["scale"].const_value, norm.inputs[1].const_value
    np.testing.assert_allclose(before.numpy() / after.numpy(), found.absmax["n"], rtol=2e-3)


def test_activations_without_fitting_statistics_stay() -> None:
    model = model_of(100.0)
    channels = statistics(model)
    assert balanced_smoothing(model.graph, {}) is None
    assert balanced_smoothing(model.graph, {"n": channels["r"]}) is None
