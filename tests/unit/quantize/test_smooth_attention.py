"""Smoothing what an attention gives goes into the product that makes its values, where nothing else hears of it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_tools import run

from edgebuild.graph.framework import checked_passes
from edgebuild.graph.invariants import check_graph
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.smooth import folds, smooth, smoothable
from edgebuild.quantize.weights import quantize_weight

WIDTH, HEADS = 24, 3

PRODUCTS = {
    "q": "q = MatMul(x, wq)",
    "k": "k = MatMul(x, wk)",
    "v": "mv = MatMul(x, wv) v = Add(mv, bv)",
    "v without bias": "v = MatMul(x, wv)",
    "v, bias first": "mv = MatMul(x, wv) v = Add(bv, mv)",
}
ATTEND = f"a = com.microsoft.MultiHeadAttention <num_heads = {HEADS}> (q, k, v)"
READ = "y = MatMul(a, wo)"

FOLDED = {
    "bias": [PRODUCTS["v"], ATTEND, READ],
    "no bias": [PRODUCTS["v without bias"], ATTEND, READ],
    "bias first": [PRODUCTS["v, bias first"], ATTEND, READ],
    "two readers": [PRODUCTS["v"], ATTEND, "c = MatMul(a, wo) d = MatMul(a, wk) y = Concat <axis = -1> (c, d)"],
}
NEAR_MISSES = {
    "values read twice": [PRODUCTS["v"], ATTEND, "r = MatMul(a, wo) y = Add(r, v)"],
    "result read twice": [PRODUCTS["v"], ATTEND, "r = MatMul(a, wo) y = Add(r, a)"],
    "bias input": [
        PRODUCTS["v"],
        f"a = com.microsoft.MultiHeadAttention <num_heads = {HEADS}> (q, k, v, b3)",
        READ,
    ],
    "values are keys too": [
        PRODUCTS["v"],
        f"a = com.microsoft.MultiHeadAttention <num_heads = {HEADS}> (q, v, v)",
        READ,
    ],
    "values are no product": [
        "mv = MatMul(x, wv) v = Relu(mv)",
        ATTEND,
        READ,
    ],
    "values are scaled behind": [
        "mv = MatMul(x, wv) v = Mul(mv, bv)",
        ATTEND,
        READ,
    ],
}


def model_of(body: list[str], seed: int = 0) -> ir.Model:
    random = np.random.default_rng(seed)
    weights = {f"w{n}": random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 5 for n in "qkvo"}
    weights["wv"][:, 5] *= 100  # one channel of the values stands out
    weights["bv"] = random.standard_normal(WIDTH).astype(np.float32)
    weights["b3"] = random.standard_normal(3 * WIDTH).astype(np.float32)
    text = " ".join([PRODUCTS["q"], PRODUCTS["k"], *body])
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
        f"g (float[B,S,{WIDTH}] x) => (float[B,S,M] y) {{ {text} }}"
    )
    used = {name for node in proto.graph.node for name in node.input}
    for name in used & set(weights):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights[name], name))
    model = ir.from_proto(proto)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{index}"
    return model


def feeds(seed: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((2, 7, WIDTH)).astype(np.float32)}


def absmax(*names: str) -> dict[str, np.ndarray]:
    largest = np.linspace(1.0, 2.0, WIDTH)
    largest[5] = 90.0
    return dict.fromkeys(names, largest)


def smoothed(body: list[str], *names: str) -> ir.Model:
    model = model_of(body)
    with checked_passes():
        assert smooth(model, absmax(*names), alpha=0.6) == len(names)
        DeadCodeElimination()(model)
    check_graph(model)
    return model


def assert_same(body: list[str], model: ir.Model) -> None:
    expected, got = (run(ir.to_proto(m), feeds())["y"] for m in (model_of(body), model))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


def multiplications(model: ir.Model) -> int:
    return sum(node.op_type == "Mul" for node in model.graph)


@pytest.mark.parametrize("form", FOLDED)
def test_it_goes_into_the_values_and_the_graph_computes_the_same(form: str) -> None:
    body = FOLDED[form]
    assert folds(smoothable(model_of(body).graph)["a"])
    model = smoothed(body, "a")
    assert multiplications(model) == 0
    assert_same(body, model)


@pytest.mark.parametrize("form", NEAR_MISSES)
def test_where_others_would_hear_of_it_it_is_a_multiplication_of_its_own(form: str) -> None:
    body = NEAR_MISSES[form]
    assert not folds(smoothable(model_of(body).graph)["a"])
    model = smoothed(body, "a")
    assert multiplications(model) == multiplications(model_of(body)) + 1
    assert_same(body, model)


@pytest.mark.parametrize("form", FOLDED)
def test_what_the_products_of_the_attention_read_is_smoothed_as_well(form: str) -> None:
    """The product that makes the values has its rows multiplied and its columns divided, in either order."""
    assert_same(FOLDED[form], smoothed(FOLDED[form], "x", "a"))


def test_the_integers_of_the_values_weight_stay_as_they_are() -> None:
    """Columns have scales of their own: a rounding that was found for other factors still fits."""
    before, after = model_of(FOLDED["bias"]), smoothed(FOLDED["bias"], "a")
    weights = [
        next(layer.weight_array() for layer in find_layers(model.graph) if layer.output.name == "v")
        for model in (before, after)
    ]
    assert not np.array_equal(*weights)
    integers = [quantize_weight(weight, 1).values for weight in weights]
    # Where a weight is next to the middle of two steps float32 may decide otherwise.
    assert np.mean(integers[0] != integers[1]) < 0.01
    assert np.abs(integers[0].astype(int) - integers[1]).max() <= 1


@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_product_has_its_rows_divided(bias: bool) -> None:
    body = [f"v = Gemm <transB = 1> (x, wv{', bv' if bias else ''})", ATTEND, READ]
    before, after = model_of(body), model_of(body)
    assert smooth(after, absmax("a"), alpha=0.6) == 1
    assert multiplications(after) == 0
    (one, reader), (other, read) = (
        [layer for layer in find_layers(model.graph) if layer.output.name in ("v", "y")] for model in (before, after)
    )
    factors = one.weight_array() / other.weight_array()
    np.testing.assert_allclose(factors, factors[:, :1].repeat(WIDTH, 1), rtol=1e-5)
    assert np.ptp(factors) > 1
    np.testing.assert_allclose(read.weight_array() / reader.weight_array(), factors, rtol=1e-5)
    if bias:
        np.testing.assert_allclose(one.bias_array() / other.bias_array(), factors[:, 0], rtol=1e-5)  # type: ignore[operator]
