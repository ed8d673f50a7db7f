"""Layer and RMS normalisation from their parts."""

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.layer_norm import LayerNormFusion, RmsNormFusion
from edgebuild.graph.passes.shape_inference import ShapeInference

SIZE = 13
CENTRE = "m = ReduceMean <keepdims = 1> (x, axis) d = Sub(x, m) "
SQUARES = {
    "power": "q = Pow(d, two) ",
    "product": "q = Mul(d, d) ",
    "twice": "m2 = ReduceMean <keepdims = 1> (x, last) d2 = Sub(x, m2) q = Mul(d2, d2) ",
}
ROOT = "v = ReduceMean <keepdims = 1> (q, axis) e = Add(v, eps) "
QUOTIENTS = {
    "quotient": "r = Sqrt(e) n = Div(d, r) ",
    "reciprocal": "r = Sqrt(e) i = Reciprocal(r) n = Mul(d, i) ",
    "one over": "r = Sqrt(e) i = Div(one, r) n = Mul(i, d) ",
    "power": "i = Pow(e, minus_half) n = Mul(d, i) ",
}
AFFINE = "o = Mul(n, w) y = Add(o, b)"


def norm(text, *, opset=18, shape="B,S,13", kind="float", outputs="", **weights):
    rng = np.random.default_rng(0)
    dtype = np.float32 if kind == "float" else np.float64
    arrays = {
        "axis": np.array([-1], np.int64),
        "last": np.array([2], np.int64),
        "two": np.array(2, dtype),
        "one": np.array(1, dtype),
        "minus_half": np.array(-0.5, dtype),
        "eps": np.array(1e-5, dtype),
        "w": rng.normal(size=SIZE).astype(dtype),
        "b": rng.normal(size=SIZE).astype(dtype),
        **weights,
    }
    used = {name: a for name, a in arrays.items() if f"{name})" in text or f"{name}," in text or f"({name}" in text}
    built = model(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y{outputs}) {{ {text} }}", used, opset=opset)
    ShapeInference()(built)
    return built


def feeds(scale=1.0, shift=0.0):
    return {"x": (np.random.default_rng(1).normal(size=(3, 5, SIZE)) * scale + shift).astype(np.float32)}


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_layer_norm_in_every_spelling(square, quotient):
    built = norm(CENTRE + SQUARES[square] + ROOT + QUOTIENTS[quotient] + AFFINE)
    before = to_bytes(built)
    assert apply(LayerNormFusion(), built).records[0].rewrites == 1
    assert ops(built) == ["LayerNormalization"]
    for each in (feeds(), feeds(1e-4), feeds(1e4, 3e4)):
        assert_same_results(before, built, each, rtol=1e-3, atol=1e-4)


def test_epsilon_weight_and_bias_arrive():
    built = norm(
        CENTRE + SQUARES["power"] + ROOT + QUOTIENTS["quotient"] + AFFINE,
        eps=np.array([0.5], np.float32),
        w=np.ones((1, 1, SIZE), np.float32) * 3,
    )
    before = to_bytes(built)
    apply(LayerNormFusion(), built)
    assert built.graph[0].attributes["epsilon"].as_float() == 0.5
    assert_same_results(before, built, feeds(), rtol=1e-5, atol=1e-6)


def test_layer_norm_without_a_bias():
    built = norm(CENTRE + SQUARES["power"] + ROOT + QUOTIENTS["quotient"] + "y = Mul(w, n)")
    before = to_bytes(built)
    apply(LayerNormFusion(), built)
    assert len(built.graph[0].inputs) == 2
    assert_same_results(before, built, feeds(), rtol=1e-5, atol=1e-6)


def test_a_sum_with_something_else_stays_behind_the_norm():
    built = norm(CENTRE + SQUARES["power"] + ROOT + QUOTIENTS["quotient"] + "o = Mul(n, w) y = Add(o, x)")
    before = to_bytes(built)
    apply(LayerNormFusion(), built)
    assert ops(built) == ["LayerNormalization", "Add"]
    assert_same_results(before, built, feeds(), rtol=1e-5, atol=1e-6)


def test_a_variance_whose_axis_is_put_back():
    text = (
        CENTRE
        + SQUARES["power"]
        + "v0 = ReduceMean <keepdims = 0> (q, axis) v = Unsqueeze(v0, axis) e = Add(v, eps) r = Sqrt(e) n = Div(d, r) "
        + AFFINE
    )
    built = norm(text)
    before = to_bytes(built)
    apply(LayerNormFusion(), built)
    assert ops(built) == ["LayerNormalization"]
    assert_same_results(before, built, feeds(), rtol=1e-5, atol=1e-6)


USUAL = CENTRE + SQUARES["power"] + ROOT + QUOTIENTS["quotient"] + AFFINE


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (USUAL.replace("(q, axis)", "(q, front)"), {"front": np.array([1], np.int64)}),
        (USUAL.replace("(x, axis)", "(x, both)").replace("(q, axis)", "(q, both)"), {"both": np.array([1, 2], np.int64)}),
        (USUAL, {"eps": np.full(SIZE, 1e-5, np.float32)}),
        (USUAL, {"eps": np.array(-1e-5, np.float32)}),
        (USUAL, {"two": np.array(3, np.float32)}),
        (USUAL, {"w": np.ones((5, 1), np.float32)}),
        (USUAL, {"w": np.array(2, np.float32)}),
        (USUAL.replace("Mul(n, w)", "Mul(n, x)"), {}),
        (USUAL.replace("Div(d, r)", "Div(x, r)"), {}),
        (USUAL.replace("Div(d, r)", "Div(r, d)"), {}),
        (USUAL.replace("Sub(x, m)", "Sub(m, x)"), {}),
        (USUAL.replace("Sqrt(e)", "Exp(e)"), {}),
        (USUAL + " z = Relu(d)", {"outputs": ", float[B,S,13] z"}),
        (USUAL, {"outputs": ", float[B,S,1] v"}),
        (USUAL + " z = Relu(n)", {"outputs": ", float[B,S,13] z"}),
        (USUAL, {"shape": "B,S,K"}),
        (USUAL, {"kind": "double"}),
    ],
    ids=[
        "variance along another axis", "two axes", "epsilon by element", "negative epsilon", "cube", "weight by row", "scalar weight",
        "weight computed", "not centred", "upside down", "negated", "no root", "second reader", "variance is an output", "normal form read",
        "unknown size", "double",
    ],
)  # fmt: skip
def test_near_misses_of_layer_norm_are_refused(text, options):
    assert_refused(LayerNormFusion(), norm(text, **options))


def test_layer_norm_needs_its_opset():
    text = (
        USUAL.replace("(x, axis)", "(x)")
        .replace("(q, axis)", "(q)")
        .replace("keepdims = 1", "keepdims = 1, axes = [-1]")
    )
    assert_refused(LayerNormFusion(), norm(text, opset=16))
    built = norm(text, opset=17)
    apply(LayerNormFusion(), built)
    assert ops(built) == ["LayerNormalization"]


RMS = "q = {} v = ReduceMean <keepdims = 1> (q, axis) e = Add(eps, v) {} y = Mul(w, n)"


@pytest.mark.parametrize("square", ["Pow(x, two)", "Mul(x, x)"])
@pytest.mark.parametrize("quotient", QUOTIENTS)
@pytest.mark.parametrize(("opset", "operator"), [(18, "SimplifiedLayerNormalization"), (23, "RMSNormalization")])
def test_rms_norm_in_every_spelling(square, quotient, opset, operator):
    built = norm(RMS.format(square, QUOTIENTS[quotient].replace("d,", "x,").replace(", d", ", x")), opset=opset)
    before = to_bytes(built)
    apply(RmsNormFusion(simplified=True), built)
    assert ops(built) == [operator]
    for each in (feeds(), feeds(1e-4), feeds(1e4)):
        assert_same_results(before, built, each, rtol=1e-4, atol=1e-6)


def test_rms_norm_stays_where_nobody_has_an_operator():
    assert_refused(RmsNormFusion(simplified=False), norm(RMS.format("Mul(x, x)", "r = Sqrt(e) n = Div(x, r)")))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (RMS.format("Mul(x, x)", "r = Sqrt(e) n = Div(x, r)").replace("Mul(w, n)", "Mul(n, n)"), {}),
        (RMS.format("Mul(x, one)", "r = Sqrt(e) n = Div(x, r)"), {}),
        (RMS.format("Mul(x, x)", "r = Sqrt(e) n = Div(q, r)"), {}),
        (RMS.format("Mul(x, x)", "r = Sqrt(e) n = Div(x, r)"), {"outputs": ", float[B,S,1] r"}),
    ],
    ids=["no weight", "no square", "square divided", "root is an output"],
)
def test_near_misses_of_rms_norm_are_refused(text, options):
    assert_refused(RmsNormFusion(simplified=True), norm(text, **options))
