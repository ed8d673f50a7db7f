"""Noise computed from distributions, against arrays that are really quantised."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from explain_tools import U8S8, Array, evidence_for, statistics, three_convolutions

from edgebuild.explain.values import input_power, quantized_values, value_noise, weight_noise
from edgebuild.graph.io import load_model
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.plan import Plan

RNG = np.random.default_rng(3)


def quantised(array: Array, low: float, high: float) -> Array:
    """By the definition: 255 steps from ``low`` to ``high``, rounded and clipped."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(array / scale) + zero, 0, 255) - zero) * scale


def ratio(exact: Array, rounded: Array) -> float:
    return float(np.sum((exact - rounded) ** 2) / np.sum(exact**2))


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (-1.0, 1.0), (-0.5, 3.0), (-40.0, 40.0)])
def test_rounding_and_clipping_are_what_quantising_does(low: float, high: float) -> None:
    array = RNG.normal(0, 1, (8, 6, 20, 20))
    found = value_noise(statistics(array), (low, high), U8S8, None)
    assert found.total == pytest.approx(ratio(array, quantised(array, low, high)), rel=0.1)
    inside = np.clip(array, low, high)
    assert found.clipping == pytest.approx(ratio(array, inside), rel=0.1, abs=1e-5)


def test_a_channel_counts_as_much_as_its_weights_make_it() -> None:
    sizes = np.array([100.0, 1, 1, 1])[None, :, None, None]
    array = RNG.uniform(0, 1, (8, 4, 16, 16)) * sizes
    stats = statistics(array)
    extent = (0.0, 100.0)
    alike = value_noise(stats, extent, U8S8, None).total
    used = np.array([1e-4, 1.0, 1, 1])  # the reader undoes the large channel
    assert value_noise(stats, extent, U8S8, used).total > 100 * alike
    rounded = quantised(array, *extent)
    weighted = float(np.sum((array - rounded) ** 2 * used[None, :, None, None])) / float(
        np.sum(array**2 * used[None, :, None, None])
    )
    assert value_noise(stats, extent, U8S8, used).total == pytest.approx(weighted, rel=0.2)


def test_clipping_is_blamed_on_the_channels_that_are_clipped() -> None:
    array = RNG.normal(0, 1, (8, 4, 16, 16)) * np.array([10.0, 1, 1, 1])[None, :, None, None]
    only_small = np.array([1e-6, 1.0, 1, 1])
    assert value_noise(statistics(array), (-5.0, 5.0), U8S8, only_small).clipping < 1e-3
    assert value_noise(statistics(array), (-5.0, 5.0), U8S8, None).clipping > 0.1


def test_a_value_of_zeros_has_no_noise() -> None:
    found = value_noise(statistics(np.zeros((1, 2, 4, 4))), (0.0, 1.0), U8S8, None)
    assert found.total == 0


def layer_of(weight: Array, kind: str, *, transposed: bool = False, bias: Array | None = None) -> Layer:
    def value(name: str, array: Array) -> ir.Value:
        return ir.Value(name=name, const_value=ir.Tensor(np.ascontiguousarray(array, np.float32), name=name))

    node = ir.node("Conv" if kind == "conv" else "MatMul", [ir.Value(name="x"), value("w", weight)], name="n")
    return Layer(
        name="n",
        kind=kind,  # type: ignore[arg-type]
        nodes=(node,),
        data=node.inputs[0],  # type: ignore[arg-type]
        weight=node.inputs[1],  # type: ignore[arg-type]
        bias=None if bias is None else value("b", bias),
        output=node.outputs[0],
        transposed=transposed,
    )


def test_input_power_is_the_sum_of_squares_of_the_weights_that_read_a_channel() -> None:
    dense, grouped, depthwise = (RNG.normal(0, 1, shape) for shape in ((5, 6, 3, 3), (8, 3, 1, 1), (6, 1, 3, 3)))
    assert input_power(layer_of(dense, "conv"), 6) == pytest.approx((dense**2).sum((0, 2, 3)), rel=1e-5)
    halves = [(grouped[4 * g : 4 * g + 4] ** 2).sum((0, 2, 3)) for g in (0, 1)]
    assert input_power(layer_of(grouped, "conv"), 6) == pytest.approx(np.concatenate(halves), rel=1e-5)
    assert input_power(layer_of(depthwise, "conv"), 6) == pytest.approx((depthwise**2).sum((1, 2, 3)), rel=1e-5)
    product = RNG.normal(0, 1, (7, 4))
    assert input_power(layer_of(product, "matmul"), 7) == pytest.approx((product**2).sum(1), rel=1e-5)
    assert input_power(layer_of(product.T, "matmul", transposed=True), 7) == pytest.approx(
        (product**2).sum(1), rel=1e-5
    )
    assert input_power(layer_of(product, "matmul"), 4) is None


def test_weight_noise_is_that_of_the_products_with_the_data() -> None:
    weight = RNG.normal(0, 1, (12, 9)) * np.exp(RNG.normal(0, 1, (12, 1)))
    data = RNG.normal(0, 1, (4000, 12)) * np.exp(RNG.normal(0, 1, (1, 12)))
    scales = np.abs(weight).max(0, keepdims=True) / 127
    measured = ratio(data @ weight, data @ (np.rint(weight / scales) * scales))
    for layer in (layer_of(weight, "matmul"), layer_of(weight.T, "matmul", transposed=True)):
        found = weight_noise(layer, "static", U8S8, statistics(data, -1), None)
        assert found.noise == pytest.approx(measured, rel=0.15)
        assert (found.bits_lost, found.channel_ratio) == (0, 1)


def test_a_bias_that_does_not_fit_costs_the_weights_bits() -> None:
    weight = RNG.normal(0, 0.01, (4, 8, 3, 3))
    bias = np.array([0.0, 1e6, 0, 0])
    step = 0.01
    found = weight_noise(layer_of(weight, "conv", bias=bias), "static", U8S8, None, step)
    natural = float(np.abs(weight[1]).max()) / 127
    assert found.bits_lost == pytest.approx(np.log2(1e6 / (step * 2**31) / natural), abs=0.01)
    assert weight_noise(layer_of(weight, "conv", bias=bias), "dynamic", U8S8, None, step).bits_lost == 0


def test_values_know_the_layers_around_them(tmp_path: Path) -> None:
    graph = three_convolutions(tmp_path / "g.onnx")
    evidence = evidence_for(graph)
    model = load_model(graph)
    found = {value.name: value for value in quantized_values(model, evidence.plan, Forms(fused_products=False))}
    around: dict[str, Any] = {name: (value.makers, value.readers) for name, value in found.items()}
    assert around["x"] == ((), ("conv1",))
    assert around["a"] == (("conv1",), ("conv2",))
    assert around["b"] == (("conv2",), ("conv3",))
    assert found["a"].extent == evidence.plan.ranges["a"]
    assert [layer.name for layer in find_layers(model.graph)] == ["conv1", "conv2", "conv3"]


def test_a_range_of_each_run_is_felt_by_dynamic_products_alone() -> None:
    names = {"a": "dynamic", "b": "two_terms", "c": "blockwise", "d": "dynamic"}
    weights = {f"w{name}": RNG.normal(0, 1, (24, 20)).astype(np.float32) for name in names}
    text = " ".join(f"y{name} = MatMul(x, w{name})" for name in names)
    outputs = ", ".join(f"float[N,20] y{name}" for name in names)
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\ng (float[N,24] x) => ({outputs}) {{ {text} }}'
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for name, node in zip(names, proto.graph.node, strict=True):
        node.name = name
    forms = Forms(fused_products=True, blockwise=True, fused_rows=True)
    (value,) = quantized_values(ir.from_proto(proto), Plan(modes=names), forms)  # type: ignore[arg-type]
    assert (value.name, value.readers) == ("x", ("a", "d"))
