import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.identity_elimination import IdentityElimination

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
INT64 = {
    "own": np.array([3, 5]),
    "ones": np.array([1, 1]),
    "one": np.array([1]),
    "zeros": np.zeros(4, np.int64),
    "pads": np.array([0, 1, 0, 0]),
    "three": np.array([3, 1]),
    "flat": np.array([15]),
    "higher": np.array([1, 3, 5]),
}
BOOL = {"yes": np.array(True), "no": np.array(False), "ratio": np.array(0.5, np.float32)}


def chain(call, declared="float[3,5]"):
    return model(f"g ({declared} x) => (float[?,?] y) {{ a = Abs(x) b = {call} y = Neg(b) }}", {**INT64, **BOOL})


@pytest.mark.parametrize(
    "call",
    [
        "Identity(a)",
        "Dropout(a)",
        "Dropout(a, ratio, no)",
        "Cast <to = 1> (a)",
        "CastLike(a, x)",
        "Transpose <perm = [0, 1]> (a)",
        "Reshape(a, own)",
        "Flatten(a)",
        "Expand(a, ones)",
        "Expand(a, one)",
        "Expand(a, own)",
        "Tile(a, ones)",
        "Pad(a, zeros)",
        "Concat <axis = 0> (a)",
        "Sum(a)",
        "Max(a)",
        "Min(a)",
        "Mean(a)",
    ],
)
def test_removes_no_ops(call):
    built = chain(call)
    for name in ("a",):
        value = next(v for n in built.graph for v in n.outputs if v.name == name)
        value.type, value.shape = built.graph.inputs[0].type, built.graph.inputs[0].shape
    before = to_bytes(built)
    result = apply(IdentityElimination(), built)
    assert ops(built) == ["Abs", "Neg"]
    assert result.records[0].rewrites == 1
    assert_same_results(before, built, {"x": X})


@pytest.mark.parametrize(
    "call",
    [
        "Dropout(a, ratio, yes)",
        "Cast <to = 1> (a)",
        "CastLike(a, x)",
        "Transpose <perm = [1, 0]> (a)",
        "Transpose(a)",
        "Reshape(a, own)",
        "Flatten <axis = 0> (a)",
        "Expand(a, higher)",
        "Tile(a, three)",
        "Pad(a, pads)",
        "Sum(a, a)",
        "Concat <axis = 0> (a, a)",
    ],
)
def test_near_misses_are_refused(call):
    # Nothing is known of 'a': neither its type nor its shape.
    assert_refused(IdentityElimination(), chain(call))


def test_dropout_whose_mask_is_read_is_refused():
    built = model("g (float[3] x) => (float[3] y, bool[3] m) { a = Abs(x) b, m = Dropout(a) y = Neg(b) }")
    assert_refused(IdentityElimination(), built)


def test_dropout_of_opset_7_has_no_flag_and_is_removed():
    built = model("g (float[3] x) => (float[3] y) { a = Abs(x) b = Dropout <ratio = 0.5> (a) y = Neg(b) }", opset=7)
    apply(IdentityElimination(), built)
    assert ops(built) == ["Abs", "Neg"]


def test_reshape_of_a_symbolic_axis_is_refused():
    built = chain("Reshape(a, own)", "float[batch,5]")
    value = built.graph[0].outputs[0]
    value.type, value.shape = built.graph.inputs[0].type, built.graph.inputs[0].shape
    assert_refused(IdentityElimination(), built)


def test_an_output_keeps_its_name_type_and_shape():
    built = model("g (float[batch,5] x) => (float[batch,5] y) { a = Abs(x) y = Identity(a) }")
    before = to_bytes(built)
    apply(IdentityElimination(), built)
    assert ops(built) == ["Abs"]
    assert [value.name for value in built.graph.outputs] == ["y"]
    assert str(built.graph.outputs[0].shape) == "[batch,5]"
    assert_same_results(before, built, {"x": X})


@pytest.mark.parametrize(
    "body",
    [
        "g (float[3] x) => (float[3] y) { y = Identity(x) }",
        "g (int64[2] x) => (int64[2] y) { y = Identity(own) }",
        "g (float[3] x) => (float[3] y, float[3] z) { z = Abs(x) y = Identity(z) }",
    ],
    ids=["input to output", "initialiser to output", "output to output"],
)
def test_an_output_needs_a_node_of_its_own(body):
    assert_refused(IdentityElimination(), model(body, INT64))


def test_a_body_that_returns_an_outer_value_keeps_its_identity():
    built = model(
        """g (bool k, float[3] x) => (float[3] y) { a = Abs(x) y = If (k) <
        then_branch = t () => (float[3] p) { p = Identity(a) }, else_branch = e () => (float[3] q) { q = Neg(x) }> }"""
    )
    assert_refused(IdentityElimination(), built)


def test_chains_go_in_one_run():
    built = model("g (float[3] x) => (float[3] y) { a = Identity(x) b = Identity(a) c = Dropout(b) y = Abs(c) }")
    assert apply(IdentityElimination(), built).records[0].rewrites == 3
    assert ops(built) == ["Abs"]


def test_an_operator_of_another_domain_is_not_ours():
    built = model("g (float[3] x) => (float[3] y) { a = Identity(x) y = Abs(a) }")
    built.graph[0].domain = "custom"
    built.graph.opset_imports["custom"] = 1
    assert_refused(IdentityElimination(), built)
