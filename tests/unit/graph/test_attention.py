"""Attention as MultiHeadAttention: every way of splitting heads, masks, scales; near-misses; the engine's numbers."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_tools import apply, assert_refused, assert_same_results, model, ops, run, to_bytes

from edgebuild.graph.passes.attention import AttentionFusion
from edgebuild.graph.passes.reshape_targets import ReshapeTargets
from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.values import constant_array

HEADS, SIZE = 3, 5
WIDTH = HEADS * SIZE


def projections(rng, names="qkv", width=WIDTH):
    weights = {}
    for name in names:
        weights[f"w{name}"] = rng.normal(size=(WIDTH, width)).astype(np.float32) / 4
        weights[f"b{name}"] = rng.normal(size=width).astype(np.float32)
    return weights


SEPARATE = """
    mq = MatMul(x, wq) aq = Add(mq, bq) rq = Reshape(aq, split) q = Transpose <perm = [0, 2, 1, 3]> (rq)
    mk = MatMul(y, wk) ak = Add(mk, bk) rk = Reshape(ak, split) k = Transpose <perm = [0, 2, 3, 1]> (rk)
    mv = MatMul(y, wv) av = Add(mv, bv) rv = Reshape(av, split) v = Transpose <perm = [0, 2, 1, 3]> (rv)
"""
JOIN = "j = Transpose <perm = [0, 2, 1, 3]> (c) z = Reshape(j, join)"
CORE = "s = MatMul(q, k) s2 = Mul(s, scale) p = Softmax <axis = -1> (s2) c = MatMul(p, v)"


def constants(rng, **more):
    return {
        **projections(rng),
        "split": np.array([0, 0, HEADS, SIZE], np.int64),
        "join": np.array([0, 0, WIDTH], np.int64),
        "scale": np.array(SIZE**-0.5, np.float32),
        **more,
    }


def attention(rng, *, heads=SEPARATE, core=CORE, join=JOIN, inputs="", outputs="", batch="B", **more):
    """A model with queries of x (B, S, 15) and keys and values of y (B, T, 15)."""
    values = more.pop("values", "")
    text = f"""g (float[{batch},S,{WIDTH}] x, float[{batch},T,{WIDTH}] y{inputs}) => (float[{batch},S,{WIDTH}] z{outputs})
        {f"<{values}>" if values else ""} {{ {heads} {core} {join} }}"""
    built = model(text, constants(rng, **more))
    ShapeInference()(built)
    return built


def feeds(rng, batch=2, queries=7, keys=4, **more):
    return {
        "x": rng.normal(size=(batch, queries, WIDTH)).astype(np.float32),
        "y": rng.normal(size=(batch, keys, WIDTH)).astype(np.float32),
        **more,
    }


def fused(built):
    return [node for node in built.graph if node.op_type == "MultiHeadAttention"]


def check(built, *every, rtol=1e-4, atol=2e-6):
    before = to_bytes(built)
    result = apply(AttentionFusion(), built)
    assert result.records[0].rewrites == 1
    assert "Softmax" not in ops(built)
    (node,) = fused(built)
    assert (node.domain, node.attributes["num_heads"].as_int()) == ("com.microsoft", HEADS)
    for each in every:
        assert_same_results(before, built, each, rtol=rtol, atol=atol)
    return node


@pytest.mark.parametrize(
    ("batch", "queries", "keys"), [(1, 1, 1), (2, 7, 4), (3, 1, 9), (5, 33, 17), (0, 3, 4), (2, 0, 3)]
)
def test_cross_attention_of_any_batch_and_lengths(batch, queries, keys):
    rng = np.random.default_rng(queries)
    node = check(attention(rng), feeds(rng, batch, queries, keys))
    assert node.attributes["scale"].as_float() == np.float32(SIZE**-0.5)


def test_reshapes_and_transposes_are_gone_and_projections_stay():
    built = attention(np.random.default_rng(0))
    check(built)
    assert ops(built) == ["MatMul", "Add"] * 3 + ["MultiHeadAttention"]


@pytest.mark.parametrize(
    ("core", "scale"),
    [
        ("s = MatMul(q, k) p = Softmax <axis = -1> (s) c = MatMul(p, v)", 1.0),
        ("s = MatMul(q, k) s2 = Div(s, scale) p = Softmax <axis = 3> (s2) c = MatMul(p, v)", SIZE**0.5),
        ("s = MatMul(q, k) s2 = Mul(scale, s) p = Softmax <axis = -1> (s2) c = MatMul(p, v)", SIZE**-0.5),
        ("q2 = Mul(q, scale) s = MatMul(q2, k) p = Softmax <axis = -1> (s) c = MatMul(p, v)", SIZE**-0.5),
        (
            "q2 = Mul(q, scale) k2 = Mul(k, scale) s = MatMul(q2, k2) p = Softmax <axis = -1> (s) c = MatMul(p, v)",
            1 / SIZE,
        ),
    ],
    ids=["none", "quotient", "constant first", "on q", "on both"],
)
def test_the_scale_is_found_wherever_it_stands(core, scale):
    rng = np.random.default_rng(1)
    node = check(attention(rng, core=core), feeds(rng))
    assert node.attributes["scale"].as_float() == pytest.approx(scale, rel=1e-6)


def packed(rng, order, heads, **shapes):
    """Queries, keys and values of x by one projection; ``order``: the axes of its columns."""
    weights = {
        "wp": rng.normal(size=(WIDTH, 3 * WIDTH)).astype(np.float32) / 4,
        "bp": rng.normal(size=3 * WIDTH).astype(np.float32),
        "five": np.array([0, 0, *order], np.int64),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        **{name: np.array(value, np.int64) for name, value in shapes.items()},
    }
    return attention(rng, heads="m = MatMul(x, wp) a = Add(m, bp) " + heads, **weights)


TAKE = {
    "gather": (
        (3, HEADS, SIZE),
        """r = Reshape(a, five) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) q = Gather <axis = 0> (t, zero)
        kk = Gather <axis = 0> (t, one) v = Gather <axis = 0> (t, two) k = Transpose <perm = [0, 1, 3, 2]> (kk)""",
    ),
    "split and squeeze": (
        (3, HEADS, SIZE),
        """r = Reshape(a, five) t = Transpose <perm = [2, 0, 3, 1, 4]> (r) q5, k5, v5 = Split <axis = 0, num_outputs = 3> (t)
        q = Squeeze(q5, first) kk = Squeeze(k5, first) v = Squeeze(v5, first) k = Transpose <perm = [0, 1, 3, 2]> (kk)""",
    ),
    "interleaved by head": (
        (HEADS, 3, SIZE),
        """r = Reshape(a, five) t = Transpose <perm = [3, 0, 2, 1, 4]> (r) q = Gather <axis = 0> (t, zero)
        kk = Gather <axis = 0> (t, one) v = Gather <axis = 0> (t, two) k = Transpose <perm = [0, 1, 3, 2]> (kk)""",
    ),
    "split of columns": (
        (3, HEADS, SIZE),
        """aq, ak, av = Split <axis = -1, num_outputs = 3> (a) rq = Reshape(aq, split) rk = Reshape(ak, split) rv = Reshape(av, split)
        q = Transpose <perm = [0, 2, 1, 3]> (rq) k = Transpose <perm = [0, 2, 3, 1]> (rk) v = Transpose <perm = [0, 2, 1, 3]> (rv)""",
    ),
}


@pytest.mark.parametrize("way", TAKE)
def test_a_packed_projection_becomes_one_each(way):
    rng = np.random.default_rng(2)
    order, heads = TAKE[way]
    built = packed(rng, order, heads, first=[0])
    check(built, feeds(rng, 3, 7))
    assert ops(built) == ["MatMul", "Add"] * 3 + ["MultiHeadAttention"]


def test_a_packed_projection_that_is_read_elsewhere_is_sliced():
    rng = np.random.default_rng(3)
    order, heads = TAKE["gather"]
    built = packed(rng, order, heads + " e = Relu(a)")
    built.graph.outputs.append(next(v for node in built.graph for v in node.outputs if v.name == "e"))
    before = to_bytes(built)
    apply(AttentionFusion(), built)
    assert sorted(ops(built)) == sorted(["MatMul", "Add", "Relu", "Slice", "Slice", "Slice", "MultiHeadAttention"])
    assert_same_results(before, built, feeds(rng), rtol=1e-4, atol=2e-6)


def test_interleaved_columns_that_are_read_elsewhere_are_refused():
    rng = np.random.default_rng(4)
    order, heads = TAKE["interleaved by head"]
    built = packed(rng, order, heads + " e = Relu(a)")
    built.graph.outputs.append(next(v for node in built.graph for v in node.outputs if v.name == "e"))
    assert_refused(AttentionFusion(), built)


def test_heads_merged_with_the_batch_and_sequence_first():
    """As nn.MultiheadAttention has it: (S, B, E) to (S, B*H, D) to (B*H, S, D) to (B, H, S, D)."""
    rng = np.random.default_rng(5)
    heads = """tx = Transpose <perm = [1, 0, 2]> (x) ty = Transpose <perm = [1, 0, 2]> (y)
        mq = MatMul(tx, wq) aq = Add(mq, bq) q1 = Reshape(aq, sq) q2 = Transpose <perm = [1, 0, 2]> (q1) q = Reshape(q2, fq)
        mk = MatMul(ty, wk) ak = Add(mk, bk) k1 = Reshape(ak, sk) k2 = Transpose <perm = [1, 2, 0]> (k1) k = Reshape(k2, fk)
        mv = MatMul(ty, wv) av = Add(mv, bv) v1 = Reshape(av, sk) v2 = Transpose <perm = [1, 0, 2]> (v1) v = Reshape(v2, fv)"""
    shapes = {
        "sq": [7, 2 * HEADS, SIZE],
        "sk": [4, 2 * HEADS, SIZE],
        "fq": [2, HEADS, 7, SIZE],
        "fk": [2, HEADS, SIZE, 4],
        "fv": [2, HEADS, 4, SIZE],
    }
    arrays = {name: np.array(value, np.int64) for name, value in shapes.items()}
    text = f"""g (float[2,7,{WIDTH}] x, float[2,4,{WIDTH}] y) => (float[2,7,{WIDTH}] z) {{ {heads} {CORE} {JOIN} }}"""
    built = model(text, constants(rng, **arrays))
    ShapeInference()(built)
    check(built, feeds(rng))
    assert ops(built).count("Reshape") == 0


def test_heads_that_stay_merged_with_the_batch():
    rng = np.random.default_rng(21)
    heads = """mq = MatMul(x, wq) aq = Add(mq, bq) rq = Reshape(aq, split) tq = Transpose <perm = [0, 2, 1, 3]> (rq) q = Reshape(tq, mergeq)
        mk = MatMul(y, wk) ak = Add(mk, bk) rk = Reshape(ak, split) tk = Transpose <perm = [0, 2, 3, 1]> (rk) k = Reshape(tk, mergek)
        mv = MatMul(y, wv) av = Add(mv, bv) rv = Reshape(av, split) tv = Transpose <perm = [0, 2, 1, 3]> (rv) v = Reshape(tv, mergev)"""
    shapes = {"mergeq": [6, 7, SIZE], "mergek": [6, SIZE, 4], "mergev": [6, 4, SIZE], "apart": [2, HEADS, 7, SIZE]}
    arrays = {name: np.array(value, np.int64) for name, value in shapes.items()}
    text = f"g (float[2,7,{WIDTH}] x, float[2,4,{WIDTH}] y) => (float[2,7,{WIDTH}] z)"
    core = CORE.replace("c =", "c3 =") + " c = Reshape(c3, apart)"
    built = model(f"{text} {{ {heads} {core} {JOIN} }}", constants(rng, **arrays))
    ShapeInference()(built)
    check(built, feeds(rng))
    assert ops(built) == ["MatMul", "Add"] * 3 + ["MultiHeadAttention"]


@pytest.mark.parametrize("mask", [None, "S,T", "1,S,T"])
def test_one_head_without_an_axis(mask):
    rng = np.random.default_rng(22)
    core = (
        "s = MatMul(q, k) s2 = Mul(s, scale) "
        + ("s3 = Add(s2, mask) " if mask else "s3 = Relu(s2) ")
        + "p = Softmax <axis = -1> (s3) z = MatMul(p, v)"
    )
    heads = "q = MatMul(x, wq) kk = MatMul(y, wk) k = Transpose <perm = [0, 2, 1]> (kk) v = MatMul(y, wv)"
    built = attention(rng, heads=heads, core=core, join="", inputs=f", float[{mask}] mask" if mask else "")
    if mask is None:
        assert_refused(AttentionFusion(), built)
        return
    before = to_bytes(built)
    apply(AttentionFusion(), built)
    (node,) = fused(built)
    assert node.attributes["num_heads"].as_int() == 1
    shape = (7, 4) if mask == "S,T" else (1, 7, 4)
    each = feeds(rng, mask=rng.normal(size=shape).astype(np.float32))
    assert_same_results(before, built, each, rtol=1e-4, atol=2e-6)


MASKED = "s = MatMul(q, k) s2 = Mul(s, scale) s3 = {} p = Softmax <axis = -1> (s3) c = MatMul(p, v)"


@pytest.mark.parametrize(
    "shape", ["B,3,S,T", "B,1,S,T", "1,3,S,T", "1,1,S,T", "S,T", "3,S,T", "B,1,1,T", "1,1,1,T", "T", "B,3,1,T"]
)
def test_masks_are_added_in_every_shape_that_broadcasts(shape):
    rng = np.random.default_rng(6)
    built = attention(rng, core=MASKED.format("Add(s2, mask)"), inputs=f", float[{shape}] mask")
    sizes = {"B": 2, "S": 7, "T": 4}
    mask = rng.normal(size=[sizes.get(part) or int(part) for part in shape.split(",")]).astype(np.float32)
    check(built, feeds(rng, mask=mask))


@pytest.mark.parametrize("constant", [-np.inf, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("order", ["Where(mask, low, s2)", "Where(mask, s2, low)"])
def test_scores_that_are_replaced_are_a_mask(constant, order):
    rng = np.random.default_rng(7)
    low = {"low": np.array(constant, np.float32)}
    built = attention(rng, core=MASKED.format(order), inputs=", bool[B,1,S,T] mask", **low)
    mask = rng.random((2, 1, 7, 4)) < 0.4
    mask[..., 0] = order.endswith("low)")
    check(built, feeds(rng, mask=mask))


def test_a_constant_causal_mask_keeps_its_infinities():
    rng = np.random.default_rng(8)
    causal = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    text = f"g (float[B,6,{WIDTH}] x, float[B,6,{WIDTH}] y) => (float[B,6,{WIDTH}] z)"
    built = model(f"{text} {{ {SEPARATE} {MASKED.format('Add(s2, mask)')} {JOIN} }}", constants(rng, mask=causal))
    ShapeInference()(built)
    check(built, feeds(rng, 2, 6, 6))


GUARDED = "s = MatMul(q, k) s2 = Mul(s, scale) s3 = Add(s2, mask) p0 = Softmax <axis = -1> (s3) n = IsNaN(p0) p = Where(n, nil, p0) c = MatMul(p, v)"


def test_a_guard_goes_behind_the_attention_and_blank_rows_stay_zero():
    rng = np.random.default_rng(9)
    built = attention(rng, core=GUARDED, inputs=", float[B,1,S,T] mask", nil=np.zeros((), np.float32))
    mask = np.where(rng.random((2, 1, 7, 4)) < 0.5, -np.inf, 0).astype(np.float32)
    mask[0, 0, 3] = mask[1, 0, 0] = -np.inf
    each = feeds(rng, mask=mask)
    before = to_bytes(built)
    check(built, each)
    got = run(built, each)[0]
    assert not got[0, 3].any()
    assert np.isfinite(run(before, each)[0]).all()
    assert ops(built)[-3:] == ["MultiHeadAttention", "IsNaN", "Where"]


def test_head_size_of_values_may_differ():
    rng = np.random.default_rng(10)
    wide = projections(rng, "v", HEADS * 2)
    heads = SEPARATE.replace("Reshape(av, split)", "Reshape(av, splitv)")
    built = attention(
        rng,
        heads=heads,
        join=JOIN.replace("join)", "joinv)"),
        splitv=np.array([0, 0, HEADS, 2], np.int64),
        joinv=np.array([0, 0, HEADS * 2], np.int64),
        **wide,
    )
    built.graph.outputs[0].shape = ir.Shape(["B", "S", HEADS * 2])
    check(built, feeds(rng))


def test_huge_and_tiny_scores():
    rng = np.random.default_rng(11)
    built = attention(rng)
    each = feeds(rng)
    check(
        built,
        {"x": each["x"] * 1e4, "y": each["y"]},
        {"x": each["x"] * 1e-30, "y": each["y"] * 1e-30},
        rtol=2e-3,
        atol=1e-4,
    )


def test_fuses_inside_a_body():
    rng = np.random.default_rng(12)
    branch = f"t () => (float[B,S,{WIDTH}] z) {{ {SEPARATE} {CORE} {JOIN} }}"
    text = f"""g (bool f, float[B,S,{WIDTH}] x, float[B,T,{WIDTH}] y) => (float[B,S,{WIDTH}] o)
        {{ o = If (f) <then_branch = {branch}, else_branch = e () => (float[B,S,{WIDTH}] i) {{ i = Identity(x) }}> }}"""
    built = model(text, constants(rng))
    for _ in range(3):  # ONNX's inference does not know constants inside of bodies
        ShapeInference()(built)
        ReshapeTargets()(built)
    before = to_bytes(built)
    apply(AttentionFusion(), built)
    assert "MultiHeadAttention" in ops(built)
    assert_same_results(before, built, {"f": np.array(True), **feeds(rng)}, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "extra"),
    [
        ({"core": CORE + " e = Relu(p)", "outputs": ", float[B,3,S,T] e"}, {}),
        ({"core": CORE, "outputs": ", float[B,3,S,T] p"}, {}),
        ({"core": CORE, "outputs": ", float[B,3,S,T] s"}, {}),
        ({"core": CORE.replace("axis = -1", "axis = 2")}, {}),
        ({"core": CORE.replace("MatMul(p, v)", "MatMul(v2, p)").replace("c =", "v2 = Transpose <perm = [0, 1, 3, 2]> (v) c0 =")
          + " c = Transpose <perm = [0, 1, 3, 2]> (c0)"}, {}),
        ({"core": CORE}, {"scale": np.array(-0.5, np.float32)}),
        ({"core": CORE}, {"scale": np.array(np.inf, np.float32)}),
        ({"core": CORE}, {"scale": np.arange(1, 5, dtype=np.float32)}),
        ({"core": MASKED.format("Sub(s2, mask)"), "inputs": ", float[B,1,S,T] mask"}, {}),
        ({"core": MASKED.format("Sub(mask, s2)"), "inputs": ", float[B,1,S,T] mask"}, {}),
        ({"core": MASKED.format("Add(s2, mask)"), "inputs": ", float[B,1,S,U] mask"}, {}),
        ({"core": MASKED.format("Add(s2, mask)"), "inputs": ", float[K,1,S,T] mask"}, {}),
        ({"core": MASKED.format("Where(mask, low, s2)"), "inputs": ", bool[B,1,S,T] mask"}, {"low": np.array(-1e4, np.float32)}),
    ],
    ids=[
        "weights read", "weights are an output", "scores are an output", "other axis", "weights on the right", "negative scale",
        "infinite scale", "scale by key", "mask subtracted", "scores subtracted", "unknown keys", "unknown batch", "mild replacement",
    ],
)  # fmt: skip
def test_near_misses_are_refused(change, extra):
    assert_refused(AttentionFusion(), attention(np.random.default_rng(13), **change, **extra))


def test_an_unknown_number_of_heads_is_refused():
    built = attention(np.random.default_rng(14), inputs=", int64[4] open", heads=SEPARATE.replace("split", "open"))
    assert_refused(AttentionFusion(), built)


def test_softmax_of_old_opsets_is_left_alone():
    built = attention(np.random.default_rng(17))
    built.graph.opset_imports[""] = 12
    assert_refused(AttentionFusion(), built)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types_are_refused(kind):
    rng = np.random.default_rng(15)
    dtype = {"float16": np.float16, "double": np.float64}[kind]
    arrays = {name: a.astype(dtype) if a.dtype == np.float32 else a for name, a in constants(rng).items()}
    text = f"g ({kind}[B,S,{WIDTH}] x, {kind}[B,T,{WIDTH}] y) => ({kind}[B,S,{WIDTH}] z) {{ {SEPARATE} {CORE} {JOIN} }}"
    built = model(text, arrays)
    ShapeInference()(built)
    assert_refused(AttentionFusion(), built)


def test_columns_of_a_packed_projection_are_those_of_the_weights():
    rng = np.random.default_rng(16)
    order, heads = TAKE["interleaved by head"]
    built = packed(rng, order, heads)
    weight = built.graph.initializers["wp"].const_value.numpy()
    apply(AttentionFusion(), built)
    query = fused(built)[0].inputs[0].producer().inputs[0].producer()
    columns = np.arange(3 * WIDTH).reshape(HEADS, 3, SIZE)[:, 0].ravel()
    np.testing.assert_array_equal(constant_array(query.inputs[1]), weight[:, columns])
