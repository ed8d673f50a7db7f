import numpy as np
import onnx_ir as ir
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, to_bytes

from edgebuild.graph.passes.constant_folding import ConstantFolding
from edgebuild.graph.passes.duplicate_initializers import DuplicateInitializers
from edgebuild.graph.passes.shape_folding import ShapeFolding
from edgebuild.graph.passes.shape_inference import ShapeInference

W = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def fold(body, weights=None, **options):
    built = model(body, {"w": W} if weights is None else weights)
    before = to_bytes(built)
    apply(ConstantFolding(**options), built)
    return before, built


def test_folds_a_chain_with_the_engines_numbers():
    before, built = fold("g (float[3,5] x) => (float[3,5] y) { a = Exp(w) b = Softmax(a) y = Add(x, b) }")
    assert ops(built) == ["Add"]
    assert_same_results(before, built, {"x": W})


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (1, 1)])
def test_rank_and_empty_axes_survive(shape):
    dims = ",".join(map(str, shape))
    body = f"g (float[{dims}] x) => (float[{dims}] y) {{ a = Neg(w) y = Add(x, a) }}"
    before, built = fold(body, {"w": np.ones(shape, np.float32)})
    assert ops(built) == ["Add"]
    folded = built.graph[0].inputs[1]
    assert tuple(folded.const_value.shape) == shape
    assert_same_results(before, built, {"x": np.zeros(shape, np.float32)})


def test_several_outputs_and_left_out_inputs():
    body = "g (float[3] x) => (float[3,3] y) { a, b = Split <axis = 1> (w, s) c = Clip(b, , m) y = Add(a, c) z = Add(y, x) }"
    weights = {"w": W[:, :4], "s": np.array([1, 3]), "m": np.array(0.1, np.float32)}
    built = model(body.replace("y = Add(a, c) z = Add(y, x)", "d = Add(a, c) y = Add(d, x)"), weights)
    before = to_bytes(built)
    apply(ConstantFolding(), built)
    assert ops(built) == ["Add"]
    assert_same_results(before, built, {"x": W[0, :3]})


def test_constants_inside_a_body_fold():
    before, built = fold(
        """g (bool k, float[3,5] x) => (float[3,5] y) { y = If (k) <
        then_branch = t () => (float[3,5] p) { a = Exp(w) p = Add(x, a) },
        else_branch = e () => (float[3,5] q) { q = Neg(x) }> }"""
    )
    assert ops(built) == ["If", "Add", "Neg"]
    for flag in (True, False):
        assert_same_results(before, built, {"k": np.array(flag), "x": W})


def test_cast_like_of_a_constant_needs_only_the_type():
    built = model("g (float16[3,5] x) => (float16[3,5] y) { a = CastLike(w, x) y = Add(x, a) }", {"w": W})
    apply(ConstantFolding(), built)
    assert apply(ConstantFolding(), built).modified is False
    assert "CastLike" not in ops(built)


@pytest.mark.parametrize(
    "body",
    [
        "g (float[3,5] x) => (float[3,5] y) { a = RandomNormalLike(w) y = Add(x, a) }",
        "g (float[3,5] x) => (float[3,5] y) { a = Bernoulli(w) y = Add(x, a) }",
        "g (float[3,5] x) => (float[3,5] y) { a = DequantizeLinear(q, s) y = Add(x, a) }",
        "g (float[3,5] x) => (float[3,5] y, float[3,5] a) { a = Exp(w) y = Add(x, a) }",
        "g (float[3,5] x) => (float[3,5] y) { y = Exp(x) }",
    ],
    ids=["random", "bernoulli", "quantisation", "output", "not constant"],
)
def test_near_misses_are_refused(body):
    weights = {"w": W, "q": W.astype(np.int8), "s": np.array(0.5, np.float32)}
    assert_refused(ConstantFolding(), model(body, weights))


def test_an_initialiser_that_a_caller_may_override_is_refused():
    built = model("g (float[3,5] x) => (float[3,5] y) { a = Exp(w) y = Add(x, a) }", {"w": W})
    built.graph.inputs.append(built.graph.initializers["w"])
    assert_refused(ConstantFolding(), built)


def test_results_that_grow_the_model_too_much_are_refused_before_they_are_computed():
    body = "g (float[1] x) => (float[?] y) { a = Expand(w, s) y = Add(x, a) }"
    weights = {"w": np.ones(1, np.float32), "s": np.array([1 << 40])}  # 4 TiB: computing it would be noticed
    assert_refused(ConstantFolding(), model(body, weights))


def test_a_result_smaller_than_what_it_frees_is_kept():
    before, built = fold("g (float[5,3] x) => (float[5,3] y) { a = Transpose(w) y = Add(x, a) }", max_output_bytes=8)
    assert ops(built) == ["Add"]
    assert_same_results(before, built, {"x": W.T.copy()})


def test_duplicates_merge_by_bytes():
    body = "g (float[3,5] x) => (float[3,5] y) { p = Add(x, a) q = Add(p, b) y = Add(q, c) }"
    built = model(body, {"a": W, "b": W.copy(), "c": W + 1})
    before = to_bytes(built)
    assert apply(DuplicateInitializers(), built).records[0].rewrites == 1
    assert list(built.graph.initializers) == ["a", "c"]
    assert_same_results(before, built, {"x": W})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(2, np.float32), -np.zeros(2, np.float32)),
        (np.zeros((1, 2), np.float32), np.zeros(2, np.float32)),
        (np.zeros(2, np.float32), np.zeros(2, np.int32).view(np.float32) + np.float32(1e-45)),
        (np.array([1, 2], np.int32), np.array([1, 2], np.uint32)),
    ],
    ids=["sign of zero", "shape", "smallest difference", "dtype"],
)
def test_equal_values_of_other_bytes_are_refused(a, b):
    built = model("g (float[2] x) => (float[2] y) { y = Abs(x) }", {"a": a, "b": b})
    assert_refused(DuplicateInitializers(), built)


@pytest.mark.parametrize("kind", ["input", "output"])
def test_duplicates_that_are_inputs_or_outputs_stay(kind):
    built = model("g (float[3,5] x) => (float[3,5] y) { p = Add(x, a) y = Add(p, b) }", {"a": W, "b": W})
    value = built.graph.initializers["b"]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([3, 5])
    (built.graph.inputs if kind == "input" else built.graph.outputs).append(value)
    assert_refused(DuplicateInitializers(), built)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Shape(x)", None),
        ("Shape <start = 1> (x)", [5, 7]),
        ("Shape <start = -1> (x)", [7]),
        ("Shape <start = 1, end = -1> (x)", [5]),
        ("Size(x)", None),
        ("Gather(s, one)", [5]),
        ("Gather(s, scalar)", 7),
        ("Gather(s, zero)", None),
        ("Gather(s, four)", None),
        ("Slice(s, one, three)", [5, 7]),
        ("Slice(s, zero, one)", None),
        ("Slice(s, one, minus, zero, two)", None),
    ],
)
def test_shape_questions_fold_where_the_axes_are_static(call, expected):
    weights = {name: np.array([v]) for name, v in (("zero", 0), ("one", 1), ("two", 2), ("three", 3), ("four", 4))}
    weights |= {"minus": np.array([-1]), "scalar": np.array(-1)}
    built = model(f"g (float[batch,5,7] x) => (int64[] y) {{ s = Shape(x) a = {call} y = Neg(a) }}", weights)
    built.graph.outputs[0].shape = None
    apply(ShapeFolding(), built)
    source = built.graph[-1].inputs[0]
    if expected is None:
        assert source.const_value is None
    else:
        assert source.const_value.numpy().tolist() == expected


def test_shape_inference_fills_in_but_never_contradicts_the_signature():
    built = model("g (float[batch,4] x) => (float[n,4] y) { a = Relu(x) b = Transpose(a) y = Transpose(b) }")
    apply(ShapeInference(), built)
    assert str(built.graph[1].outputs[0].shape) == "[4,batch]"
    assert str(built.graph.outputs[0].shape) == "[n,4]"


def test_shape_inference_keeps_weights_out_of_its_message_and_their_order():
    class Untouchable(ir.Tensor):
        def tobytes(self):
            msg = "a weight was serialised"
            raise AssertionError(msg)

        numpy = tobytes

    built = model(
        "g (float[2,600] x) => (float[?,?] y) { a = MatMul(x, w) b = Add(a, c) y = Relu(b) }",
        {"w": np.ones((600, 600), np.float32), "c": np.ones(600, np.float32)},
    )
    value = built.graph.initializers["w"]
    value.const_value = Untouchable(np.ones((600, 600), np.float32), name="w")
    ShapeInference()(built)
    assert list(built.graph.initializers) == ["w", "c"]
    assert [value.name for value in built.graph.inputs] == ["x"]
    assert str(built.graph[0].outputs[0].shape) == "[2,600]"


def test_shape_inference_gives_sequences_their_own_type():
    built = model("g (float[3] x) => (float[] y) { s = SequenceConstruct(x, x) y = ConcatFromSequence <axis = 0> (s) }")
    apply(ShapeInference(), built)
    assert isinstance(built.graph[0].outputs[0].type, ir.SequenceType)
