"""GELU and hard-swish from their parts."""

import math

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.gelu import GeluFusion
from edgebuild.graph.passes.hard_swish import HardSwishFusion

LEGAL = frozenset({"com.microsoft.Gelu", "com.microsoft.FastGelu"})
CONSTANTS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "root": math.sqrt(2),
    "inverse": math.sqrt(0.5),
    "tanh": math.sqrt(2 / math.pi),
    "cubic": 0.044715,
    "zero": 0.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "short": 1.41421,
}

ERF = [
    "a = Div(x, root) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Mul(g, half)",
    "a = Mul(x, inverse) e = Erf(a) f = Add(one, e) g = Mul(half, f) y = Mul(x, g)",
    "h = Mul(x, half) a = Div(x, root) e = Erf(a) f = Add(e, one) y = Mul(f, h)",
    "a = Div(x, root) e = Erf(a) f = Add(e, one) g = Mul(x, f) y = Div(g, two)",
]
TANH = [
    "p = Pow(x, three) c = Mul(cubic, p) s = Add(x, c) a = Mul(tanh, s) t = Tanh(a) f = Add(one, t) h = Mul(half, x) y = Mul(h, f)",
    "p = Mul(x, x) q = Mul(p, x) c = Mul(q, cubic) s = Add(c, x) a = Mul(s, tanh) t = Tanh(a) f = Add(t, one) g = Mul(x, f) y = Mul(g, half)",
    "p = Mul(x, x) c = Mul(p, cubic) s = Add(c, one) k = Mul(x, tanh) a = Mul(k, s) t = Tanh(a) f = Add(t, one) h = Mul(x, half) y = Mul(h, f)",
]


def activation(text, *, opset=18, kind="float", shape="B,7,5", outputs="", **constants):
    dtype = {"float": np.float32, "double": np.float64}[kind]
    values = {name: np.array(value, dtype) for name, value in CONSTANTS.items()} | constants
    used = {name: a for name, a in values.items() if f"{name})" in text or f"{name}," in text}
    return model(f"g ({kind}[{shape}] x) => ({kind}[{shape}] y{outputs}) {{ {text} }}", used, opset=opset)


def every_size():
    x = np.random.default_rng(0).normal(size=(3, 7, 5)).astype(np.float32)
    return [{"x": x}, {"x": x * 1e-20}, {"x": x * 50}]


@pytest.mark.parametrize("text", ERF)
@pytest.mark.parametrize(("opset", "domain"), [(18, "com.microsoft"), (20, "")])
def test_gelu_by_erf(text, opset, domain):
    built = activation(text, opset=opset)
    before = to_bytes(built)
    assert apply(GeluFusion(LEGAL), built).records[0].rewrites == 1
    assert [(node.domain, node.op_type) for node in built.graph] == [(domain, "Gelu")]
    for each in every_size():
        assert_same_results(before, built, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", TANH)
@pytest.mark.parametrize(("opset", "operator"), [(18, "FastGelu"), (20, "Gelu")])
def test_gelu_by_tanh(text, opset, operator):
    built = activation(text, opset=opset)
    before = to_bytes(built)
    assert apply(GeluFusion(LEGAL), built).records[0].rewrites == 1
    assert ops(built) == [operator]
    for each in every_size():
        assert_same_results(before, built, each, rtol=1e-5, atol=1e-5)


def test_without_an_operator_gelu_stays():
    assert_refused(GeluFusion(frozenset()), activation(ERF[0]))
    assert_refused(GeluFusion(frozenset({"com.microsoft.Gelu"})), activation(TANH[0]))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (ERF[0].replace("root", "short"), {}),
        (ERF[0].replace("Mul(g, half)", "Mul(g, one)"), {}),
        (ERF[0].replace("Add(e, one)", "Add(e, two)"), {}),
        (ERF[0].replace("Add(e, one)", "Sub(e, one)"), {}),
        (ERF[0].replace("Div(x, root)", "Div(root, x)"), {}),
        (ERF[0].replace("Mul(x, f)", "Mul(a, f)"), {}),
        (ERF[0].replace("Erf(a)", "Sin(a)"), {}),
        (ERF[0], {"outputs": ", float[B,7,5] e"}),
        (ERF[0] + " z = Relu(f)", {"outputs": ", float[B,7,5] z"}),
        (ERF[0], {"kind": "double"}),
        (ERF[0], {"half": np.full(5, 0.5, np.float32)}),
        (TANH[0].replace("three", "two"), {}),
        (TANH[0].replace("cubic", "half"), {}),
        (TANH[0].replace("Mul(tanh, s)", "Mul(one, s)"), {}),
        (TANH[0].replace("Add(x, c)", "Add(p, c)"), {}),
        (TANH[0] + " z = Relu(c)", {"outputs": ", float[B,7,5] z"}),
    ],
    ids=[
        "root too short", "no half", "plus two", "minus one", "upside down", "other factor", "other curve", "inner output", "second reader",
        "double", "half by element", "square", "other cubic", "other root", "other sum", "cube read",
    ],
)  # fmt: skip
def test_near_misses_of_gelu_are_refused(text, options):
    assert_refused(GeluFusion(LEGAL), activation(text, opset=20, **options))


HARD = [
    "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "a = Add(three, x) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)",
    "a = Add(x, three) c = Clip(a, zero, six) m = Mul(c, sixth) y = Mul(m, x)",
    "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul(h, x)",
]


@pytest.mark.parametrize("text", HARD)
def test_hard_swish(text):
    built = activation(text)
    before = to_bytes(built)
    assert apply(HardSwishFusion(), built).records[0].rewrites == 1
    assert ops(built) == ["HardSwish"]
    for each in every_size():
        assert_same_results(before, built, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (HARD[0], {"opset": 13}),
        (HARD[0].replace("Div(m, six)", "Div(m, three)"), {}),
        (HARD[0].replace("Clip(a, zero, six)", "Clip(a, zero, three)"), {}),
        (HARD[0].replace("Clip(a, zero, six)", "Clip(a, zero)"), {}),
        (HARD[0].replace("Add(x, three)", "Add(x, two)"), {}),
        (HARD[0].replace("Mul(x, c)", "Mul(a, c)"), {}),
        (HARD[0], {"outputs": ", float[B,7,5] c"}),
        (HARD[3].replace("alpha = 0.16666667, ", ""), {}),
        (HARD[3].replace("beta = 0.5", "beta = 0.4"), {}),
        (HARD[0], {"kind": "double"}),
    ],
    ids=["old opset", "thirds", "other bound", "no bound", "plus two", "other factor", "inner output", "alpha", "beta", "double"],
)  # fmt: skip
def test_near_misses_of_hard_swish_are_refused(text, options):
    assert_refused(HardSwishFusion(), activation(text, **options))
