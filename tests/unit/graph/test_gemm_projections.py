"""MatMul and Add as Gemm between Reshapes, for quantisers."""

import numpy as np
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.gemm_projections import GemmProjections
from edgebuild.graph.passes.shape_inference import ShapeInference

USUAL = "m = MatMul(x, w) y = Add(m, b)"


def projection(text=USUAL, x="B,S,5", y="B,S,3", outputs="", kind="float", opset=18, **weights):
    rng = np.random.default_rng(0)
    dtype = np.float32 if kind == "float" else np.float64
    arrays = {"w": rng.normal(size=(5, 3)), "b": rng.normal(size=3), "w2": rng.normal(size=(5, 3))} | weights
    used = {name: a.astype(dtype) for name, a in arrays.items() if f"{name})" in text or f"{name}," in text}
    built = model(f"g ({kind}[{x}] x) => ({kind}[{y}] y{outputs}) {{ {text} }}", used, opset=opset)
    ShapeInference()(built)
    return built


@pytest.mark.parametrize("text", [USUAL, "m = MatMul(x, w) y = Add(b, m)"])
@pytest.mark.parametrize(
    ("x", "y", "shape", "constant"),
    [
        ("B,S,5", "B,S,3", (2, 7, 5), False),
        ("B,7,5", "B,7,3", (2, 7, 5), True),
        ("2,7,5", "2,7,3", (2, 7, 5), True),
        ("B,4,S,5", "B,4,S,3", (1, 4, 9, 5), False),
        ("B,S,5", "B,S,3", (1, 1, 5), False),
    ],
)
def test_rows_are_flattened(text, x, y, shape, constant):
    built = projection(text, x, y)
    before = to_bytes(built)
    assert apply(GemmProjections(), built).records[0].rewrites == 1
    assert [op for op in ops(built) if op not in ("Shape", "Concat")] == ["Reshape", "Gemm", "Reshape"]
    assert ("Shape" not in ops(built)) == constant
    feeds = {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32)}
    assert_same_results(before, built, feeds, rtol=1e-5, atol=1e-6)


def test_projections_of_one_value_share_the_flattened_rows():
    built = projection("m = MatMul(x, w) a = Add(m, b) n = MatMul(x, w2) c = Add(n, b) y = Mul(a, c)", "2,7,5", "2,7,3")
    before = to_bytes(built)
    apply(GemmProjections(), built)
    assert sorted(ops(built)) == ["Gemm", "Gemm", "Mul", "Reshape", "Reshape", "Reshape"]
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 7, 5)).astype(np.float32)}
    assert_same_results(before, built, feeds, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (USUAL, {"x": "B,5", "y": "B,3"}),
        (USUAL, {"outputs": ", float[B,S,3] m"}),
        (USUAL + " z = Relu(m)", {"outputs": ", float[B,S,3] z"}),
        (USUAL, {"b": np.ones(1)}),
        (USUAL, {"b": np.ones((1, 3))}),
        (USUAL, {"w": np.ones((2, 5, 3)), "x": "2,S,5"}),
        (USUAL.replace("Add", "Sub"), {}),
        ("y = MatMul(x, w)", {}),
        (USUAL, {"kind": "double"}),
        (USUAL, {"opset": 14}),
    ],
    ids=["two axes", "output", "second reader", "scalar", "bias of two axes", "stacked weights", "difference", "no bias", "double", "old"],
)  # fmt: skip
def test_near_misses_are_refused(text, options):
    assert_refused(GemmProjections(), projection(text, **options))
