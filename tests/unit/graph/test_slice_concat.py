"""Parts that are put together again."""

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.passes.slice_concat import SliceConcatCleanup

NUMBERS = {
    "zero": [0], "two": [2], "five": [5], "six": [6], "one": [1], "minus": [-1], "end": [2**63 - 1], "zeros": [0, 0], "ends": [4, 6],
    "parts": [2, 4], "halves": [3, 3],
}  # fmt: skip
HALVES = "a = Slice(x, zero, two, one) b = Slice(x, two, end, minus) "


def graph(text, interface="(float[4,6] x) => (float[?,?] y)"):
    weights = {
        name: np.array(value, np.int64) for name, value in NUMBERS.items() if f"{name})" in text or f"{name}," in text
    }
    built = model(f"g {interface} {{ {text} }}", weights)
    ShapeInference()(built)
    return built


@pytest.mark.parametrize(
    "text",
    [
        "c = Slice(x, zeros, ends) y = Relu(c)",
        "c = Slice(x, zero, end, minus) y = Relu(c)",
        HALVES + "c = Concat <axis = -1> (a, b) y = Relu(c)",
        "a, b = Split <axis = 1> (x, parts) c = Concat <axis = 1> (a, b) y = Relu(c)",
        "a, d = Split <axis = -1> (x, parts) b = Slice(x, two, six, one) c = Concat <axis = 1> (a, b) y = Relu(c)",
        "c = Split <axis = 1, num_outputs = 1> (x) y = Relu(c)",
    ],
    ids=["slice of all", "slice to the end", "slices", "split", "both", "one part"],
)
def test_parts_that_make_the_whole_vanish(text):
    built = graph(text)
    before = to_bytes(built)
    apply(SliceConcatCleanup(), built)
    assert [op for op in ops(built) if op not in ("Slice", "Split")] == ["Relu"]
    assert built.graph[-1].inputs[0] is built.graph.inputs[0]
    assert_same_results(before, built, {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)})


def test_a_slice_of_all_of_an_unknown_axis():
    built = graph("c = Slice(x, zero, end, one) y = Relu(c)", "(float[4,S] x) => (float[4,S] y)")
    apply(SliceConcatCleanup(), built)
    assert ops(built) == ["Relu"]


def test_nested_concats_are_one():
    built = graph("a = Relu(x) b = Concat <axis = 1> (a, x) c = Concat <axis = -1> (x, b, a) y = Abs(c)")
    before = to_bytes(built)
    apply(SliceConcatCleanup(), built)
    assert ops(built) == ["Relu", "Concat", "Abs"]
    assert_same_results(before, built, {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)})


@pytest.mark.parametrize(
    "text",
    [
        "c = Slice(x, zero, five, one) y = Relu(c)",
        "c = Slice(x, one, end, one) y = Relu(c)",
        "c = Slice(x, minus, end, one) y = Relu(c)",
        HALVES + "c = Concat <axis = 1> (b, a) y = Relu(c)",
        HALVES + "c = Concat <axis = 1> (a, a, b) y = Relu(c)",
        "a = Slice(x, zero, two, one) b = Slice(x, two, five, one) c = Concat <axis = 1> (a, b) y = Relu(c)",
        "a = Slice(x, zero, two, zero) b = Slice(x, two, end, zero) c = Concat <axis = 1> (a, b) y = Relu(c)",
        "r = Relu(x) a = Slice(x, zero, two, one) b = Slice(r, two, end, one) c = Concat <axis = 1> (a, b) y = Relu(c)",
        "a = Slice(x, zero, six, one, two) b = Relu(a) y = Relu(b)",
        "b = Concat <axis = 1> (x, x) c = Concat <axis = 1> (x, b) d = Concat <axis = 1> (b, c) y = Relu(d) z = Abs(c)",
    ],
    ids=["short", "late", "last", "swapped", "twice", "rest missing", "other axis", "other value", "step", "read elsewhere"],
)  # fmt: skip
def test_near_misses_are_refused(text):
    interface = (
        "(float[4,6] x) => (float[?,?] y, float[?,?] z)" if "z =" in text else "(float[4,6] x) => (float[?,?] y)"
    )
    assert_refused(SliceConcatCleanup(), graph(text, interface))


def test_bounds_from_outside_are_refused():
    built = graph(
        "c = Slice(x, from, end, one) y = Relu(c)".replace("from", "f"), "(float[4,6] x, int64[1] f) => (float[?,?] y)"
    )
    assert_refused(SliceConcatCleanup(), built)
