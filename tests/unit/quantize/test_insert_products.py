"""Quantised products and LSTMs against their float ones in ONNX Runtime, inside the error that the steps of the integers imply."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantize_tools as tools
from quantize_tools import FUSED, STANDARD, U8S8, build, data, plan_for, quantised, run, vector, weight

from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan

Array = np.ndarray[Any, Any]
SCHEMES = {
    "8 bits": tools.U8S8,
    "7 bits": tools.SEVEN_BIT,
    "per tensor": tools.PER_TENSOR,
    "symmetric": tools.SYMMETRIC,
}


def product(
    x: str, y: str, text: str, *, k: int = 24, n: int = 20, transposed: bool = False, **more: Array
) -> ir.Model:
    weights = {"w": weight(n, k) if transposed else weight(k, n), **more}
    if transposed:
        weights["w"] *= np.sqrt(n / k).astype(np.float32)
    if "b)" in text or "b," in text:
        weights.setdefault("b", vector(n))
    return build(f"g (float[{x}] x) => (float[{y}] y) {{ {text} }}", weights)


PRODUCTS = {
    "matmul of rank 2": ("N,24", "N,20", "y = MatMul(x, w)", False, (5, 24)),
    "matmul of rank 3": ("N,S,24", "N,S,20", "y = MatMul(x, w)", False, (2, 3, 24)),
    "matmul and add": ("N,24", "N,20", "m = MatMul(x, w) y = Add(m, b)", False, (5, 24)),
    "matmul and add, rank 3": ("N,S,24", "N,S,20", "m = MatMul(x, w) y = Add(b, m)", False, (2, 3, 24)),
    "matmul and add, rank 4": ("2,3,S,24", "2,3,S,20", "m = MatMul(x, w) y = Add(m, b)", False, (2, 3, 4, 24)),
    "gemm": ("N,24", "N,20", "y = Gemm(x, w, b)", False, (5, 24)),
    "gemm without bias": ("N,24", "N,20", "y = Gemm(x, w)", False, (5, 24)),
    "gemm transposed": ("N,24", "N,20", "y = Gemm <transB = 1> (x, w, b)", True, (5, 24)),
    "gemm transposed without bias": ("N,24", "N,20", "y = Gemm <transB = 1> (x, w)", True, (1, 24)),
}


def product_error(model: ir.Model, proto: onnx.ModelProto, x: Array, level: str) -> tuple[Array, Array]:
    """(largest error, largest error that steps of 8 bits allow), by output channel."""
    feeds = {"x": x}
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level=level).values()
    assert want.shape == got.shape
    (layer,) = find_layers(model.graph)
    largest = np.max(np.abs(x).reshape(-1, x.shape[-1]), axis=0)
    x_step = tools.step((float(x.min()), float(x.max())))
    bound = tools.layer_bound(largest, layer.weight_array(), x_step=x_step, axis=layer.channel_axis)
    return np.max(np.abs(want - got).reshape(-1, want.shape[-1]), axis=0), bound


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize("forms", [FUSED, STANDARD], ids=["fused", "standard"])
def test_static_products_stay_inside_the_error_of_their_steps(form: str, forms: Forms) -> None:
    x, y, text, transposed, shape = PRODUCTS[form]
    model = product(x, y, text, transposed=transposed)
    feeds = data(*shape)
    plan = plan_for(model, {"x": feeds}, forms=forms)
    assert sorted(plan.ranges) == ["x"]
    proto = quantised(model, plan, forms=forms)
    assert ("MatMulIntegerToFloat" in tools.operators(proto)) == forms.fused_products
    quantised_reads = {node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised_reads == {"x"}
    assert not any("x" in node.input for node in proto.graph.node if node.op_type != "QuantizeLinear")
    for level in ("none", "all"):
        error, bound = product_error(model, proto, feeds, level)
        assert np.all(error <= bound * 1.01 + 1e-5)
        assert np.max(error) > 0


@pytest.mark.parametrize("form", PRODUCTS)
def test_the_engine_has_no_float_product_left(form: str, tmp_path: Path) -> None:
    x, y, text, transposed, shape = PRODUCTS[form]
    model = product(x, y, text, transposed=transposed)
    for forms in (FUSED, STANDARD):
        if forms is STANDARD and form == "matmul and add":
            continue  # the engine makes a float Gemm of them first; the graph stage writes Gemm for such backends
        ran = tools.fused(quantised(model, plan_for(model, {"x": data(*shape)}, forms=forms), forms=forms), tmp_path)
        assert {"MatMul", "Gemm", "FusedMatMul"}.isdisjoint(ran)
        if forms is FUSED:
            assert "MatMulIntegerToFloat" in ran


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize("scheme", ["8 bits", "7 bits", "per tensor"])
def test_dynamic_products_follow_their_input(form: str, scheme: str) -> None:
    x, y, text, transposed, shape = PRODUCTS[form]
    model = product(x, y, text, transposed=transposed)
    plan = Plan(modes={find_layers(model.graph)[0].name: "dynamic"})
    proto = quantised(model, plan, scheme=SCHEMES[scheme], forms=FUSED)
    assert tools.operators(proto) == ["DynamicQuantizeMatMul"]
    wider = 2.1 if "7" in scheme else 8 if "tensor" in scheme else 1.01
    for gain in (1e-3, 1.0, 1e3):
        error, bound = product_error(model, proto, data(*shape) * np.float32(gain), "all")
        assert np.all(error <= bound * wider + 1e-5)
        assert np.max(error) > 0


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize("k", [24, 128, 300])
def test_blockwise_products_have_a_scale_for_each_block(form: str, k: int) -> None:
    x, y, text, transposed, shape = PRODUCTS[form]
    model = product(x.replace("24", str(k)), y, text, k=k, transposed=transposed)
    plan = Plan(modes={find_layers(model.graph)[0].name: "blockwise"})
    proto = quantised(model, plan, forms=replace(FUSED, blockwise=True))
    assert tools.operators(proto) == ["MatMulNBits"]
    error, bound = product_error(model, proto, data(*shape[:-1], k), "all")
    assert np.all(error <= bound * 2.05 + 1e-5)  # its activations are symmetric: twice the step
    assert np.max(error) > 0


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize("opset", [17, 18])
def test_rowwise_products_give_each_row_the_resolution_that_it_has_alone(form: str, opset: int) -> None:
    """Rows of magnitudes from 1e-6 to 1e6 and one of zeros: each is as near as if it were the only one."""
    x, y, text, transposed, shape = PRODUCTS[form]
    model = product(
        x, y, text.replace("b)", "zero)").replace("(b,", "(zero,"), transposed=transposed, zero=np.zeros(20, np.float32)
    )
    model.graph.opset_imports[""] = opset
    proto = quantised(model, Plan(modes={find_layers(model.graph)[0].name: "rowwise"}), forms=FUSED)
    assert "DynamicQuantizeMatMul" in tools.operators(proto)
    rows = data(*shape).reshape(-1, 24)
    sizes = np.logspace(-6, 6, len(rows), dtype=np.float32) if len(rows) > 1 else np.ones(1, np.float32)
    feeds = {"x": np.ascontiguousarray((rows * sizes[:, None]).reshape(shape))}
    if len(rows) > 2:
        feeds["x"].reshape(-1, 24)[1] = 0
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert want.shape == got.shape
    for index, (one, other) in enumerate(zip(want.reshape(-1, 20), got.reshape(-1, 20), strict=True)):
        if index == 1 and len(rows) > 2:
            np.testing.assert_array_equal(other, 0)
        else:
            assert tools.sqnr(one, other) > 28
            assert not np.array_equal(one, other)


def test_rows_are_scaled_once_for_all_products_that_read_them() -> None:
    model = build(
        "g (float[N,24] x) => (float[N,32] y, float[N,16] z) { y = MatMul(x, w1) z = MatMul(x, w2) }",
        {"w1": weight(24, 32), "w2": weight(24, 16, seed=2)},
    )
    plan = Plan(modes={layer.name: "rowwise" for layer in find_layers(model.graph)})
    proto = quantised(model, plan, forms=FUSED)
    assert tools.operators(proto).count("ReduceMax") == 1
    feeds = {"x": data(6, 24)}
    for want, got in zip(
        run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values(), strict=True
    ):
        assert tools.sqnr(want, got) > 28


@pytest.mark.parametrize("mode", ["dynamic", "rowwise", "blockwise", "static"])
def test_products_in_a_row_read_each_other(mode: Any) -> None:
    model = build(
        "g (float[N,24] x) => (float[N,20] y) { a = MatMul(x, w1) b = MatMul(a, w2) m = MatMul(b, w3) y = Add(m, c) }",
        {"w1": weight(24, 32), "w2": weight(32, 16, seed=2), "w3": weight(16, 20, seed=3), "c": vector(20)},
    )
    feeds = {"x": data(6, 24)}
    forms = replace(FUSED, blockwise=True)
    proto = quantised(model, plan_for(model, feeds, mode, forms=forms), forms=forms)
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


def test_a_dynamic_product_behind_an_integer_convolution_leaves_it_fused(tmp_path: Path) -> None:
    model = build(
        "g (float[N,8,6,6] x) => (float[N,16,6,20] y) { c = Conv(x, w) y = MatMul(c, v) }",
        {"w": weight(16, 8, 1, 1), "v": weight(20, 20)[:6]},
    )
    # Too small a weight is no layer: 6 x 20 stays float.
    assert [layer.kind for layer in find_layers(model.graph)] == []
    model = build(
        "g (float[N,8,6,24] x) => (float[N,32,6,20] y) { c = Conv(x, w) y = MatMul(c, v) }",
        {"w": weight(32, 8, 1, 1), "v": weight(24, 20)},
    )
    first, second = (layer.name for layer in find_layers(model.graph))
    feeds = {"x": data(2, 8, 6, 24)}
    plan = plan_for(model, feeds, {first: "static", second: "dynamic"}, forms=FUSED)
    proto = quantised(model, plan, forms=FUSED)
    ran = tools.fused(proto, tmp_path)
    assert "QLinearConv" in ran
    assert "DynamicQuantizeMatMul" in ran
    assert "Conv" not in ran
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


@pytest.mark.parametrize("forms", [FUSED, STANDARD], ids=["fused", "standard"])
def test_a_product_with_relu_feeds_the_next_one(forms: Forms, tmp_path: Path) -> None:
    model = build(
        "g (float[N,24] x) => (float[N,20] y) { a = Gemm(x, w1, b1) r = Relu(a) y = Gemm(r, w2, b2) }",
        {"w1": weight(24, 32), "b1": vector(32), "w2": weight(32, 20, seed=2), "b2": vector(20)},
    )
    feeds = {"x": data(6, 24)}
    plan = plan_for(model, feeds, forms=forms)
    assert sorted(plan.ranges) == ["r", "x"]
    proto = quantised(model, plan, forms=forms)
    assert {"Gemm", "MatMul"}.isdisjoint(tools.fused(proto, tmp_path))
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
def test_lstm_with_integer_weights(direction: str, bias: bool, per_channel: bool) -> None:
    d = 2 if direction == "bidirectional" else 1
    weights = {
        "w": np.stack([weight(12, 48, seed=i).T for i in range(d)]),
        "r": np.stack([weight(12, 48, seed=9 + i).T for i in range(d)]),
    } | ({"b": np.stack([vector(96, i) for i in range(d)])} if bias else {})
    weights = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    model = build(
        f"g (float[7,N,12] x, float[{d},N,12] h, float[{d},N,12] c) => (float[7,{d},N,12] y, float[{d},N,12] hn, "
        f'float[{d},N,12] cn) {{ y, hn, cn = LSTM <hidden_size = 12, direction = "{direction}"> '
        f"(x, w, r, {'b' if bias else ''}, , h, c) }}",
        weights,
    )
    (layer,) = find_layers(model.graph)
    assert layer.kind == "recurrent"
    proto = quantised(
        model, Plan(modes={layer.name: "dynamic"}), scheme=U8S8 if per_channel else tools.PER_TENSOR, forms=FUSED
    )
    assert tools.operators(proto) == ["DynamicQuantizeLSTM"]
    feeds = {"x": data(7, 3, 12), "h": data(d, 3, 12, seed=2) / 2, "c": data(d, 3, 12, seed=3) / 2}
    want, got = run(tools.proto_of(model), feeds), run(proto, feeds)
    assert list(want) == list(got)
    for name, array in want.items():
        assert tools.sqnr(array, got[name]) > 25
        assert not np.array_equal(array, got[name])


def test_an_lstm_whose_later_outputs_nobody_wants() -> None:
    model = build(
        "g (float[7,N,12] x) => (float[7,1,N,12] y) { y = LSTM <hidden_size = 12> (x, w, r) }",
        {"w": np.ascontiguousarray(weight(12, 48).T[None]), "r": np.ascontiguousarray(weight(12, 48, seed=2).T[None])},
    )
    (layer,) = find_layers(model.graph)
    proto = quantised(model, Plan(modes={layer.name: "dynamic"}), forms=FUSED)
    feeds = {"x": data(7, 3, 12)}
    assert tools.sqnr(run(tools.proto_of(model), feeds)["y"], run(proto, feeds)["y"]) > 25


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_sum_of_a_long_row_does_not_overflow(mode: Any) -> None:
    depth = 140_000
    model = build(f"g (float[N,{depth}] x) => (float[N,2] y) {{ y = MatMul(x, w) }}", {"w": np.ones((depth, 2), "f4")})
    feeds = {"x": np.stack([np.ones(depth, np.float32), np.linspace(0, 1, depth, dtype=np.float32)])}
    proto = quantised(model, plan_for(model, feeds, mode, forms=FUSED), forms=FUSED)
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds).values()
    np.testing.assert_allclose(got, want, rtol=0.01)
