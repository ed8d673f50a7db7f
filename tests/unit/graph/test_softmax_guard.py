"""When the guard around a Softmax goes, and when it stays."""

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.passes.softmax_guard import SoftmaxGuardRemoval

GUARD = "p0 = Softmax <axis = -1> (s) n = IsNaN(p0) p = Where(n, nil, p0) c = MatMul(p, v)"
LOWEST = float(np.finfo(np.float32).min)


def guarded(scores, *, inputs="", guard=GUARD, opset=18, outputs="", **weights):
    weights = {"nil": np.zeros((), np.float32), **weights}
    text = f"g (float[2,3,5,4] q, float[2,3,4,6] k, float[2,3,6,7] v{inputs}) => (float[2,3,5,7] c{outputs}) {{ {scores} {guard} }}"
    built = model(text, weights, opset=opset)
    ShapeInference()(built)
    return built


def feeds(rng, **more):
    shapes = {"q": (2, 3, 5, 4), "k": (2, 3, 4, 6), "v": (2, 3, 6, 7)}
    return {**{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, **more}


def causal(rows, columns, low):
    return np.triu(np.full((rows, columns), low, np.float32), 1)


CAUSAL = """e = Expand(one, shape) t = Trilu <upper = 0> (e)
    d = Equal(t, z) m = Where(d, low, z) s0 = MatMul(q, k) s = Add(s0, m)"""

COMPUTED = {
    "shape": np.array([5, 6], np.int64),
    "low": np.array(-np.inf, np.float32),
    "one": np.ones((), np.float32),
    "z": np.zeros((), np.float32),
}


@pytest.mark.parametrize(
    ("scores", "inputs", "weights"),
    [
        ("s = MatMul(q, k)", "", {}),
        ("s0 = MatMul(q, k) s = Mul(s0, half)", "", {"half": np.array(0.5, np.float32)}),
        (
            "s0 = MatMul(q, k) s1 = Div(s0, half) s = Add(s1, m)",
            "",
            {"half": np.array([0.5], np.float32), "m": causal(5, 6, -np.inf)},
        ),
        ("s0 = MatMul(q, k) s = Add(m, s0)", "", {"m": causal(5, 6, LOWEST)}),
        (
            "s0 = MatMul(q, k) m = Where(b, nil, low) s = Add(s0, m)",
            ", bool[2,1,1,6] b",
            {"low": np.array(LOWEST, np.float32)},
        ),
        ("s0 = MatMul(q, k) m = Cast <to = 1> (b) s = Add(s0, m)", ", bool[2,1,5,6] b", {}),
        (CAUSAL, "", COMPUTED),
    ],
    ids=["no mask", "scaled", "causal constant", "finite constant", "finite choice", "cast", "causal computed"],
)
def test_a_guard_that_cannot_matter_is_removed(scores, inputs, weights):
    rng = np.random.default_rng(0)
    built = guarded(scores, inputs=inputs, **weights)
    before = to_bytes(built)
    assert apply(SoftmaxGuardRemoval(), built).records[0].rewrites == 1
    assert not {"IsNaN"} & set(ops(built))
    more = {}
    if "bool" in inputs:
        shape = tuple(int(n) for n in inputs.split("[")[1].split("]")[0].split(","))
        more["b"] = rng.random(shape) < 0.5
        more["b"][0] = False  # every key of a row is blanked out by a finite number: no NaN
    assert_same_results(before, built, feeds(rng, **more))


@pytest.mark.parametrize(
    ("scores", "inputs", "weights"),
    [
        ("s0 = MatMul(q, k) s = Add(s0, m)", ", float[2,1,5,6] m", {}),
        ("s0 = MatMul(q, k) s = Add(s0, m)", "", {"m": np.full((5, 6), -np.inf, np.float32)}),
        ("s0 = MatMul(q, k) s = Add(s0, m)", "", {"m": causal(5, 6, np.inf)}),
        ("s0 = MatMul(q, k) s = Add(s0, m)", "", {"m": causal(5, 6, np.nan)}),
        ("s0 = MatMul(q, k) m = Where(b, nil, low) s = Add(s0, m)", ", bool[2,1,1,6] b", {"low": np.array(-np.inf, np.float32)}),
        ("s0 = MatMul(q, k) m = Log(f) s = Add(s0, m)", ", float[5,6] f", {}),
        ("s0 = MatMul(q, k) s = Where(b, low, s0)", ", bool[2,1,1,6] b", {"low": np.array(-np.inf, np.float32)}),
        ("s0 = MatMul(q, k) s = Mul(s0, m)", "", {"m": np.zeros((), np.float32)}),
        (CAUSAL.replace("upper = 0", "upper = 1"), "", COMPUTED),
        (CAUSAL.replace("Where(d, low, z)", "Where(d, z, low)"), "", COMPUTED),
        ("s = Relu(q2)", ", float[2,3,5,6] q2", {}),
    ],
    ids=["mask from outside", "blank row", "infinite", "nan", "choice of -infinity", "computed", "replaced", "times zero", "upper triangle", "lower dropped", "no product"],
)  # fmt: skip
def test_a_guard_that_may_matter_stays(scores, inputs, weights):
    assert_refused(SoftmaxGuardRemoval(), guarded(scores, inputs=inputs, **weights))


@pytest.mark.parametrize(
    ("guard", "outputs", "weights"),
    [
        (GUARD.replace("axis = -1", "axis = 2"), "", {}),
        (GUARD, "", {"nil": np.ones((), np.float32)}),
        (GUARD + " e = Relu(p0)", ", float[2,3,5,6] e", {}),
        (GUARD, ", float[2,3,5,6] p", {}),
        (GUARD, ", bool[2,3,5,6] n", {}),
        (GUARD.replace("Where(n, nil, p0)", "Where(n, p0, nil)"), "", {}),
        (GUARD.replace("nil, p0", "nil, p1").replace("n =", "p1 = Relu(p0) n ="), "", {}),
    ],
    ids=["axis", "other value", "second reader", "output", "flag is an output", "swapped", "other value kept"],
)
def test_what_only_looks_like_a_guard_stays(guard, outputs, weights):
    built = guarded("s = MatMul(q, k)", guard=guard, outputs=outputs, **weights)
    assert_refused(SoftmaxGuardRemoval(), built)


def test_old_softmax_is_left_alone():
    assert_refused(SoftmaxGuardRemoval(), guarded("s = MatMul(q, k)", opset=12))
