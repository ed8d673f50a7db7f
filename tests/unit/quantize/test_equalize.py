"""Equalisation shares range among the channels of activations and changes nothing that the graph computes."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import (
    FUSED,
    U8S8,
    all_values,
    build,
    data,
    plan_for,
    proto_of,
    quantised,
    run,
    sqnr,
    vector,
    weight,
)

from edgebuild.errors import InternalError
from edgebuild.graph.framework import checked_passes
from edgebuild.graph.invariants import check_graph
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.quantize.channels import ChannelSlots
from edgebuild.quantize.equalize import equalizable, equalization_factors, equalize
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.statistics import ChannelStatistics

C = 24
IMAGE = f"g (float[N,{C},9,7] x) => (float[?,?,?,?] y)"
ROWS = f"g (float[N,{C}] x) => (float[?,?] y)"
TOKENS = f"g (float[N,11,{C}] x) => (float[?,?,?] y)"


def unequal(shape: tuple[int, ...], *, axis: int = 0, seed: int = 0, spread: float = 300.0) -> np.ndarray:
    """A weight whose output channels differ by up to ``spread``."""
    random = np.random.default_rng(seed + 100)
    factors = np.exp(random.uniform(0, np.log(spread), shape[axis])).astype(np.float32)
    sides = [1] * len(shape)
    sides[axis] = -1
    return weight(*shape, seed=seed) * factors.reshape(sides)


WEIGHTS = {
    "w": unequal((C, C, 3, 3)),
    "b": vector(C),
    "d": unequal((C, 1, 3, 3), seed=1),
    "p": weight(16, C, 1, 1, seed=2),
    "p2": weight(16, 2 * C, 1, 1, seed=2),
    "q": unequal((C, C, 1, 1), seed=3),
    "g": weight(C, C // 2, 3, 3, seed=4),
    "m": unequal((C, C), axis=1, seed=5),
    "n": weight(C, 20, seed=6),
    "t": np.ascontiguousarray(weight(C, 20, seed=6).T),
    "u": weight(C // 4, C, seed=6)[:, :5].copy(),
    "s": np.abs(vector(C)).reshape(C, 1, 1),
    "zero": np.float32(0),
    "six": np.float32(6),
    "v1": vector(20),
    "row": vector(20).reshape(1, 20),
    "places": np.array([2, 3], np.int64),
    "flat": np.array([0, -1], np.int64),
    "pads": np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "gain": np.ones(C, np.float32),
}

CONV = "Conv <pads = [1, 1, 1, 1]>"
DEPTHWISE = f"Conv <pads = [1, 1, 1, 1], group = {C}>"

TAKEN = {
    "relu": (IMAGE, f"a = {CONV} (x, w, b) r = Relu(a) y = Conv (r, p)"),
    "nothing between": (IMAGE, f"a = {CONV} (x, w, b) y = Conv (a, p)"),
    "leaky": (IMAGE, f"a = {CONV} (x, w, b) r = LeakyRelu <alpha = 0.2> (a) y = Conv (r, p)"),
    "prelu": (IMAGE, f"a = {CONV} (x, w, b) r = PRelu(a, s) y = Conv (r, p)"),
    "clip from zero": (IMAGE, f"a = {CONV} (x, w, b) r = Clip(a, zero) y = Conv (r, p)"),
    "depthwise": (IMAGE, f"a = {CONV} (x, w, b) r = Relu(a) e = {DEPTHWISE} (r, d, b) f = Relu(e) y = Conv (f, p)"),
    "grouped": (IMAGE, f"a = {CONV} (x, w, b) r = Relu(a) y = Conv <group = 2> (r, g)"),
    "residual": (IMAGE, f"a = {CONV} (x, w, b) e = Conv (a, q) f = Add(a, e) h = Relu(f) y = Conv (h, p)"),
    "two readers": (IMAGE, f"a = {CONV} (x, w, b) r = Relu(a) e = Conv (r, p) f = Conv (r, p) y = Add(e, f)"),
    "max pooling": (IMAGE, f"a = {CONV} (x, w, b) r = MaxPool <kernel_shape = [2, 2]> (a) y = Conv (r, p)"),
    "average": (IMAGE, f"a = {CONV} (x, w, b) r = AveragePool <kernel_shape = [3, 2]> (a) y = Conv (r, p)"),
    "padding": (IMAGE, f"a = {CONV} (x, w, b) r = Pad (a, pads) y = Conv (r, p)"),
    "resize": (IMAGE, f'a = {CONV} (x, w, b) r = Resize <mode = "linear"> (a, , scales) y = Conv (r, p)'),
    "concatenation": (IMAGE, f"a = {CONV} (x, w, b) e = Conv (x, q) f = Concat <axis = 1> (a, e) y = Conv (f, p2)"),
    "one side of a concatenation": (
        IMAGE,
        f"a = {CONV} (x, w, b) f = Concat <axis = 1> (x, a) y = Conv (f, p2)",
    ),
    "gate": (
        IMAGE,
        f"a = {CONV} (x, w, b) r = Relu(a) h = ReduceMean (r, places) k = Conv (h, q) i = Sigmoid(k)"
        " f = Mul(i, r) y = Conv (f, p)",
    ),
    "mean": (f"{IMAGE[:-8]}] y)", f"a = {CONV} (x, w, b) h = ReduceMean <keepdims = 0> (a, places) y = MatMul(h, n)"),
    "pooled and flat": (
        f"{IMAGE[:-8]}] y)",
        f"a = {CONV} (x, w, b) h = GlobalAveragePool (a) f = Flatten(h) y = Gemm <transB = 1> (f, t, v1)",
    ),
    "depth to space": (
        IMAGE,
        f'a = {CONV} (x, w, b) r = DepthToSpace <blocksize = 2, mode = "CRD"> (a) f = Relu(r) y = Conv (f, small)',
    ),
    "depth to space, depth first": (
        IMAGE,
        f'a = {CONV} (x, w, b) r = DepthToSpace <blocksize = 2, mode = "DCR"> (a) f = Relu(r) y = Conv (f, small)',
    ),
    "products": (ROWS, "a = Gemm(x, m, b) r = Relu(a) y = MatMul(r, n)"),
    "a bias of two axes": (ROWS, "a = Gemm(x, m, b) r = Relu(a) f = Gemm(r, n, row) h = Relu(f) y = Gemm(h, tall)"),
    "products of tokens": (TOKENS, "a = MatMul(x, m) e = Add(a, b) r = Relu(e) f = MatMul(r, n) y = Add(f, v1)"),
}
MORE = {"small": weight(16, C // 4, 1, 1, seed=8), "tall": weight(20, 30, seed=9)}


def model_of(head: str, body: str) -> ir.Model:
    import re

    every = {**WEIGHTS, **MORE}
    used = {name: array for name, array in every.items() if re.search(rf"[(, ]{name}[,)]", body)}
    return build(f"{head} {{ {body} }}", used, opset=18)


def feeds_of(model: ir.Model, seed: int = 1) -> dict[str, np.ndarray]:
    value = model.graph.inputs[0]
    assert value.shape is not None
    shape = [size if isinstance(size, int) else 16 for size in value.shape]
    return {"x": data(*shape, seed=seed)}


def statistics(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, ChannelStatistics]:
    """Of what the module asks for, by numpy."""
    values = all_values(proto_of(model), feeds)
    found = {}
    for name, axis in equalizable(model.graph).items():
        rows = np.moveaxis(values[name], axis, 0).reshape(values[name].shape[axis], -1).astype(np.float64)
        found[name] = ChannelStatistics(
            axis=axis,
            count=rows.shape[1],
            low=rows.min(1),
            high=rows.max(1),
            mean=rows.mean(1),
            mean_square=np.square(rows).mean(1),
        )
    return found


def equalised(model: ir.Model, factors: Mapping[str, np.ndarray]) -> ir.Model:
    copy = ir.from_proto(ir.to_proto(model))
    assert equalize(copy, factors) > 0
    with checked_passes():
        DeadCodeElimination()(copy)
    check_graph(copy)
    return copy


def unbalanced(form: str, *, spread: float = 1000.0) -> ir.Model:
    """A graph whose channels are unequal and whose next weights make up for it, as trained nets have them."""
    model = model_of(*TAKEN[form])
    slots = ChannelSlots(model.graph)
    random = np.exp(np.random.default_rng(4).uniform(0, np.log(spread), slots.count))
    return equalised(model, {layer.name: np.where(slots.free, random, 1.0)[part] for layer, part in slots.producers})


@pytest.mark.parametrize("form", TAKEN)
def test_the_float_graph_computes_the_same(form: str) -> None:
    model = unbalanced(form)
    feeds = feeds_of(model)
    factors = equalization_factors(model.graph, statistics(model, feeds))
    assert factors
    changed = equalised(model, factors)
    assert [node.op_type for node in changed.graph] == [node.op_type for node in model.graph]
    for seed in (1, 2):
        feeds = feeds_of(model, seed)
        expected, got = run(proto_of(model), feeds)["y"], run(proto_of(changed), feeds)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("form", TAKEN)
def test_any_factors_on_free_channels_change_nothing(form: str) -> None:
    model = model_of(*TAKEN[form])
    slots = ChannelSlots(model.graph)
    random = np.where(slots.free, np.random.default_rng(3).uniform(0.1, 10, slots.count), 1.0)
    changed = equalised(model, {layer.name: random[part] for layer, part in slots.producers})
    feeds = feeds_of(model)
    expected, got = run(proto_of(model), feeds)["y"], run(proto_of(changed), feeds)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (IMAGE, f"a = {CONV} (x, w, b) r = Clip(a, zero, six) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Sigmoid(a) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Add(a, s) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Add(a, x) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Mul(a, a) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Softmax <axis = 1> (a) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Pad (a, pads, six) y = Conv (r, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = Relu(a) e = Conv (r, q) y = Add(r, e)"),
        (f"{IMAGE[:-1]}, float[?,?,?,?] a)", f"a = {CONV} (x, w, b) y = Conv (a, p)"),
        (IMAGE, f"a = {CONV} (x, w, b) r = ReduceMax <keepdims = 1> (a) e = Add(a, r) y = Conv (e, p)"),
        (TOKENS, "a = MatMul(x, m) e = LayerNormalization(a, gain, b) y = MatMul(e, n)"),
        (TOKENS, "a = MatMul(x, m) e = Transpose <perm = [0, 2, 1]> (a) y = Transpose <perm = [0, 2, 1]> (e)"),
    ],
)
def test_channels_that_meet_anything_else_stay(head: str, body: str) -> None:
    model = model_of(head, body)
    assert equalizable(model.graph) == {}
    assert equalization_factors(model.graph, statistics(model, feeds_of(model))) == {}


def test_channels_of_one_axis_are_not_taken_for_those_of_another() -> None:
    text = f"g (float[N,{C},9,{C}] x) => (float[?,?,?,?] y) {{ a = {CONV} (x, w, b) r = Relu(a) y = MatMul(r, n) }}"
    model = build(text, {name: WEIGHTS[name] for name in ("w", "b", "n")})
    assert equalizable(model.graph) == {}


def test_a_channel_with_a_fixed_partner_is_fixed_and_the_others_are_not() -> None:
    body = f"a = {CONV} (x, w, b) r = Relu(a) f = Concat <axis = 1> (x, r) y = Conv (f, p2)"
    slots = ChannelSlots(model_of(IMAGE, body).graph)
    _, read = next((layer, read) for layer, read in slots.consumers if len(read) == 2 * C)
    np.testing.assert_array_equal(slots.free[read], [False] * C + [True] * C)


def test_depthwise_convolutions_get_channels_of_equal_width() -> None:
    model = model_of(*TAKEN["depthwise"])
    feeds = feeds_of(model)
    changed = equalised(model, equalization_factors(model.graph, statistics(model, feeds)))
    before, after = (all_values(proto_of(one), feeds)["r"].max((0, 2, 3)) for one in (model, changed))
    assert before.max() / before.min() > 50
    assert after.max() / after.min() < 1.01


@pytest.mark.parametrize("form", TAKEN)
def test_int8_of_unequal_channels_gets_better(form: str) -> None:
    model = unbalanced(form)
    feeds = feeds_of(model)
    changed = equalised(model, equalization_factors(model.graph, statistics(model, feeds)))
    fresh = feeds_of(model, seed=5)
    expected = run(proto_of(model), fresh)["y"]
    scores = []
    for one in (model, changed):
        plan = plan_for(one, feeds, forms=FUSED, widen=1.1)
        scores.append(sqnr(expected, run(quantised(one, plan, scheme=U8S8, forms=FUSED), fresh)["y"]))
    assert scores[1] > scores[0] + 3, scores


def test_equal_channels_are_left_alone() -> None:
    body = TAKEN["relu"][1].replace("w, b", "even, b")
    even = build(
        f"{IMAGE} {{ {body} }}", {"even": np.ones((C, C, 3, 3), np.float32), "b": np.zeros(C, np.float32), "p": MORE_P}
    )
    assert equalization_factors(even.graph, statistics(even, feeds_of(even))) == {}


MORE_P = np.ones((16, C, 1, 1), np.float32)


def test_channels_that_were_never_seen_are_left_alone() -> None:
    model = model_of(*TAKEN["relu"])
    channels = statistics(model, feeds_of(model))
    for array in (channels["r"].low, channels["r"].high, channels["r"].mean_square):
        array[7] = 0.0
    factors = next(iter(equalization_factors(model.graph, channels).values()))
    assert factors[7] == 1
    assert np.sum(factors != 1) > C / 2


def test_layers_without_statistics_take_no_part() -> None:
    model = model_of(*TAKEN["depthwise"])
    channels = statistics(model, feeds_of(model))
    assert set(channels) == {"r", "f"}
    names = [layer.name for layer in find_layers(model.graph, smallest=1)]
    assert set(equalization_factors(model.graph, {"r": channels["r"]})) == {names[0]}
    assert equalization_factors(model.graph, {}) == {}


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"nowhere": np.full(C, 2.0)}, "names layers"),
        ({"Conv_0": np.full(C + 1, 2.0)}, f"{C + 1} factors"),
        ({"Conv_2": np.full(16, 2.0)}, "would change"),
        ({"Conv_0": np.full(C, 1e-44)}, "does not fit float32"),
    ],
)
def test_factors_that_do_not_fit_are_refused(factors: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(InternalError, match=words):
        equalize(model_of(*TAKEN["relu"]), factors)


def test_two_factors_for_one_channel_are_refused() -> None:
    model = model_of(*TAKEN["residual"])
    with pytest.raises(InternalError, match="would change"):
        equalize(model, {"Conv_0": np.full(C, 2.0), "Conv_1": np.full(C, 3.0)})


def test_the_result_is_the_same_every_time() -> None:
    model = model_of(*TAKEN["residual"])
    channels = statistics(model, feeds_of(model))
    first, second = (equalization_factors(model.graph, channels) for _ in range(2))
    assert {name: array.tolist() for name, array in first.items()} == {n: a.tolist() for n, a in second.items()}
