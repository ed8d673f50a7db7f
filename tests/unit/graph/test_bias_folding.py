"""Constants that become biases."""

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.bias_folding import BiasFolding
from edgebuild.graph.passes.shape_inference import ShapeInference


def build(text, interface, weights, dtype=np.float32):
    arrays = {name: a.astype(dtype) if a.dtype == np.float64 else a for name, a in weights.items()}
    built = model(f"g {interface} {{ {text} }}", {name: a for name, a in arrays.items() if name in text})
    ShapeInference()(built)
    return built


def conv(rng, constant, *, text="c = Conv(x, w, b) y = Add(c, k)", group=1, outputs=""):
    weights = {"w": rng.normal(size=(6, 4 // group, 3, 3)), "b": rng.normal(size=6), "k": constant}
    interface = f"(float[2,4,7,5] x) => (float[2,?,?,?] y{outputs})"
    return build(text, interface, weights)


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6, 1, 1), (1,), (), (1, 1, 1, 1)])
@pytest.mark.parametrize("text", ["c = Conv(x, w, b) y = Add(c, k)", "c = Conv(x, w) y = Add(k, c)"])
def test_convolutions_take_channel_constants(shape, text):
    rng = np.random.default_rng(0)
    built = conv(rng, rng.normal(size=shape), text=text)
    before = to_bytes(built)
    assert apply(BiasFolding(), built).records[0].rewrites == 1
    assert ops(built) == ["Conv"]
    x = rng.normal(size=(2, 4, 7, 5)).astype(np.float32)
    assert_same_results(before, built, {"x": x}, rtol=1e-5, atol=1e-5)


def test_transposed_convolutions_with_groups():
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(4, 3, 2, 2)), "k": rng.normal(size=(1, 6, 1, 1))}
    built = build(
        "c = ConvTranspose <group = 2> (x, w) y = Add(c, k)", "(float[2,4,7,5] x) => (float[2,6,8,6] y)", weights
    )
    before = to_bytes(built)
    apply(BiasFolding(), built)
    assert ops(built) == ["ConvTranspose"]
    x = rng.normal(size=(2, 4, 7, 5)).astype(np.float32)
    assert_same_results(before, built, {"x": x}, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "weight", "constant"),
    [
        ("p = MatMul(x, w) y = Add(p, k)", (5, 3), (3,)),
        ("p = MatMul(x, w) y = Add(k, p)", (5, 3), (1, 3)),
        ("p = Gemm <transB = 1> (x, w) y = Add(p, k)", (3, 5), (1, 3)),
        ("p = Gemm <transB = 1, alpha = 0.5> (x, w, b) y = Add(p, k)", (3, 5), ()),
    ],
)
def test_two_dimensional_products_become_one_gemm(text, weight, constant):
    rng = np.random.default_rng(2)
    weights = {"w": rng.normal(size=weight), "b": rng.normal(size=3), "k": rng.normal(size=constant)}
    built = build(text, "(float[B,5] x) => (float[B,3] y)", weights)
    before = to_bytes(built)
    assert apply(BiasFolding(), built).records[0].rewrites == 1
    assert ops(built) == ["Gemm"]
    for rows in (1, 7):
        assert_same_results(before, built, {"x": rng.normal(size=(rows, 5)).astype(np.float32)}, rtol=1e-5, atol=1e-5)


def test_near_misses_are_refused():
    rng = np.random.default_rng(3)
    for constant in (rng.normal(size=(1, 1, 5, 3)), rng.normal(size=(2, 6, 1, 1)), rng.normal(size=(1, 1, 1, 3))):
        assert_refused(BiasFolding(), conv(rng, constant))
    channel = rng.normal(size=(1, 6, 1, 1))
    read = "c = Conv(x, w, b) y = Add(c, k) z = Relu(c)"
    assert_refused(BiasFolding(), conv(rng, channel, text=read, outputs=", float[2,?,?,?] z"))
    assert_refused(BiasFolding(), conv(rng, channel, outputs=", float[2,?,?,?] c"))
    assert_refused(BiasFolding(), conv(rng, channel, text="c = Conv(x, w, b) y = Sub(c, k)"))
    assert_refused(BiasFolding(), conv(rng, channel, text="b2 = Abs(b) c = Conv(x, w, b2) y = Add(c, k)"))


@pytest.mark.parametrize(
    ("text", "interface"),
    [
        ("p = MatMul(x, w) y = Add(p, k)", "(float[B,S,5] x) => (float[B,S,3] y)"),
        ("p = MatMul(x, w) y = Add(p, x)", "(float[B,5] x) => (float[B,?] y)"),
        ("p = Gemm <beta = 2.0> (x, w, k) y = Add(p, k)", "(float[B,5] x) => (float[B,3] y)"),
        ("p = Gemm (x, w, r) y = Add(p, k)", "(float[4,5] x) => (float[4,3] y)"),
    ],
    ids=["three axes", "no constant", "beta", "rows"],
)
def test_products_that_must_stay(text, interface):
    rng = np.random.default_rng(4)
    square = "p, x" in text
    weights = {"w": rng.normal(size=(5, 5 if square else 3)), "k": rng.normal(size=3), "r": rng.normal(size=(4, 3))}
    assert_refused(BiasFolding(), build(text, interface, weights))


def test_a_sum_that_overflows_half_precision_is_refused():
    weights = {"w": np.ones((5, 3), np.float16), "b": np.full(3, 6e4, np.float16), "k": np.full(3, 6e4, np.float16)}
    built = build("p = Gemm(x, w, b) y = Add(p, k)", "(float16[B,5] x) => (float16[B,3] y)", weights)
    assert_refused(BiasFolding(), built)
