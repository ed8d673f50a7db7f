"""Quantised graphs against their float ones in ONNX Runtime, inside the error that the steps of the integers imply."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantize_tools as tools
from quantize_tools import FUSED, STANDARD, U8S8, build, data, plan_for, quantised, run, vector, weight

from edgebuild.errors import InternalError
from edgebuild.quantize.insert import Forms, forms_of, insert
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.targets.spec import QuantizationScheme

Array = np.ndarray[Any, Any]
SCHEMES = {
    "8 bits": tools.U8S8,
    "7 bits": tools.SEVEN_BIT,
    "per tensor": tools.PER_TENSOR,
    "symmetric": tools.SYMMETRIC,
}


def conv(shape: tuple[int, ...], groups: int = 1, epilogue: str = "", *, bias: bool = True, pads: int = 1) -> ir.Model:
    """One convolution with 8 input planes of 9 x 7 on a graph's input ``x``; its output is ``y``."""
    weights = {"w": weight(*shape)} | ({"b": vector(shape[0])} if bias else {})
    inputs = "x, w, b" if bias else "x, w"
    attributes = f"<group = {groups}, pads = [{pads}, {pads}, {pads}, {pads}]>"
    end = {
        "": f"y = Conv {attributes} ({inputs})",
        "relu": f"c = Conv {attributes} ({inputs}) y = Relu(c)",
        "clip": f"c = Conv {attributes} ({inputs}) y = Clip(c, zero, six)",
    }[epilogue]
    if epilogue == "clip":
        weights |= {"zero": np.float32(0), "six": np.float32(1.5)}  # type: ignore[dict-item]
        weights = {name: np.asarray(array) for name, array in weights.items()}
    return build(f"g (float[N,8,9,7] x) => (float[N,M,H,W] y) {{ {end} }}", weights)


def conv_bound(model: ir.Model, feeds: dict[str, Array], plan: Plan, scheme: QuantizationScheme, groups: int) -> Array:
    """Largest error of each output channel of ``conv``, its own output's step included."""
    (layer,) = find_layers(model.graph)
    w = layer.weight_array()
    limit = 63 if scheme.reduce_range else 127
    x_low, x_high = plan.ranges["x"]
    levels = 254 if scheme.symmetric_activations else 255
    x_step = 2 * max(-x_low, x_high) / levels if scheme.symmetric_activations else tools.step((x_low, x_high))
    planes = np.max(np.abs(feeds["x"]), axis=(0, 2, 3))
    per_group = planes.reshape(groups, -1)
    kernel = w[0, 0].size
    steps = np.max(np.abs(w).reshape(len(w), -1), axis=1) / limit
    if not scheme.per_channel:
        steps = np.full_like(steps, steps.max())
    bounds = []
    for channel, rows in enumerate(w):
        x = np.repeat(per_group[channel * groups // len(w)], kernel)
        flat = np.abs(rows).reshape(-1)
        half_w, half_x = steps[channel] / 2, x_step / 2
        bounds.append(np.sum(x * half_w + flat * half_x + half_w * half_x) + steps[channel] * x_step)
    low, high = plan.ranges["y"]
    y_step = 2 * max(-low, high) / 254 if scheme.symmetric_activations else tools.step((low, high))
    return np.asarray(bounds) * 1.001 + y_step


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("shape", "groups"), [((16, 8, 3, 3), 1), ((32, 2, 3, 3), 4), ((40, 1, 3, 3), 8), ((32, 8, 1, 1), 1)]
)
@pytest.mark.parametrize("epilogue", ["", "relu", "clip"])
def test_convolutions_stay_inside_the_error_of_their_steps(
    shape: tuple[int, ...], groups: int, epilogue: str, scheme: str
) -> None:
    model = conv(shape, groups, epilogue)
    feeds = {"x": data(2, 8, 9, 7)}
    plan = plan_for(model, feeds)
    assert sorted(plan.ranges) == ["x", "y"]
    proto = quantised(model, plan, scheme=SCHEMES[scheme])
    bound = conv_bound(model, feeds, plan, SCHEMES[scheme], groups)
    for level in ("none", "all"):  # exactly as written, and as the engine runs it
        (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level=level).values()
        error = np.max(np.abs(want - got), axis=(0, 2, 3))
        assert np.all(error <= bound)
        assert np.max(error) > 0  # something was quantised


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("epilogue", ["", "relu", "clip"])
def test_the_engine_fuses_convolutions_and_their_epilogues(epilogue: str, bias: bool, tmp_path: Path) -> None:
    model = conv((16, 8, 3, 3), 1, epilogue, bias=bias)
    proto = quantised(model, plan_for(model, {"x": data(2, 8, 9, 7)}))
    ran = [op for op in tools.fused(proto, tmp_path) if op != "Transpose"]  # to the layout of the kernel and back
    assert ran == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]


def test_depthwise_convolutions_are_fused(tmp_path: Path) -> None:
    model = conv((40, 1, 3, 3), 8, "relu")
    proto = quantised(model, plan_for(model, {"x": data(2, 8, 9, 7)}))
    assert "QLinearConv" in tools.fused(proto, tmp_path)


RESIDUAL = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r = Relu(a)
  c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
  s = Add(c, r)
  t = Relu(s)
  y = Conv <pads = [1, 1, 1, 1]> (t, w3)
}"""


def residual() -> ir.Model:
    weights = {f"w{i}": weight(16, 16, 3, 3, seed=i) for i in (1, 2, 3)}
    return build(RESIDUAL, weights | {"b1": vector(16), "b2": vector(16, 8)})


def test_a_residual_block_is_integer_from_end_to_end(tmp_path: Path) -> None:
    model = residual()
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    assert sorted(plan.ranges) == ["c", "r", "t", "x", "y"]
    proto = quantised(model, plan)
    ran = [op for op in tools.fused(proto, tmp_path) if op != "Transpose"]
    assert sorted(ran) == sorted(["QuantizeLinear", *["QLinearConv"] * 3, "QLinearAdd", "DequantizeLinear"])
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 30


def test_convolutions_are_integer_where_nothing_else_may_join(tmp_path: Path) -> None:
    model = residual()
    feeds = {"x": data(2, 16, 8, 8)}
    proto = quantised(model, plan_for(model, feeds, operators=frozenset()))
    ran = tools.fused(proto, tmp_path)
    assert ran.count("QLinearConv") == 3
    assert "Conv" not in ran
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 30


def test_one_value_read_by_several_layers_and_by_float_nodes_is_quantised_once(tmp_path: Path) -> None:
    model = build(
        """g (float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
          a = Conv (x, w1) b = Conv (x, w2) e = Exp(x) s = Add(a, b) y = Mul(s, e) z = Tanh(a)
        }""",
        {"w1": weight(16, 16, 1, 1), "w2": weight(16, 16, 1, 1, seed=2)},
    )
    feeds = {"x": data(2, 16, 8, 8) / 2}
    proto = quantised(model, plan_for(model, feeds))
    assert [n.input[0] for n in proto.graph.node if n.op_type == "QuantizeLinear"].count("x") == 1
    (exp,) = [node for node in proto.graph.node if node.op_type == "Exp"]
    assert list(exp.input) == ["x"]  # a float reader keeps the exact input
    ran = tools.fused(proto, tmp_path)
    assert ran.count("QLinearConv") == 2
    want, got = run(tools.proto_of(model), feeds), run(proto, feeds, level="all")
    assert all(tools.sqnr(want[name], got[name]) > 30 for name in want)


def test_one_weight_of_two_layers_is_quantised_for_each() -> None:
    model = build(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv (x, w, b) r = Relu(a) y = Conv (r, w, b) }",
        {"w": weight(16, 16, 1, 1), "b": vector(16)},
    )
    feeds = {"x": data(2, 16, 8, 8)}
    proto = quantised(model, plan_for(model, feeds))  # names that are not unique would be found
    assert tools.sqnr(run(tools.proto_of(model), feeds)["y"], run(proto, feeds, level="all")["y"]) > 30


def test_an_output_that_the_region_reads_is_quantised_under_its_own_name(tmp_path: Path) -> None:
    model = build(
        "g (float[N,16,8,8] x) => (float[N,16,8,8] a, float[N,16,8,8] y) { a = Conv (x, w1) y = Conv (a, w2) }",
        {"w1": weight(16, 16, 1, 1), "w2": weight(16, 16, 1, 1, seed=2)},
    )
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = quantised(model, plan)
    assert [output.name for output in proto.graph.output] == ["a", "y"]
    assert tools.fused(proto, tmp_path).count("QLinearConv") == 2
    want, got = run(tools.proto_of(model), feeds), run(proto, feeds, level="all")
    for name in want:
        assert tools.sqnr(want[name], got[name]) > 30
        grid = got[name].astype(np.float64) / tools.step(plan.ranges[name])
        np.testing.assert_allclose(grid, np.rint(grid), atol=1e-3)  # it lies on the steps


MOVES = {
    "split": "p, q = Split <axis = 1> (c) m = Concat <axis = 1> (q, p) ",
    "max pool": "m = MaxPool <kernel_shape = [2, 2], strides = [1, 1], pads = [0, 0, 1, 1]> (c) ",
    "average pool": "m = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c) ",
    "resize": 'm = Resize <mode = "linear"> (c, , scales) ',
    "nearest": 'm = Resize <mode = "nearest"> (c, , scales) ',
    "reshape and transpose": "f = Reshape (c, flat) t = Transpose <perm = [0, 2, 1]> (f) "
    "u = Transpose <perm = [0, 2, 1]> (t) m = Reshape (u, square) ",
    "slice": "m = Slice (c, starts, ends, axes) ",
    "sigmoid and mul": "g = Sigmoid (c) m = Mul (c, g) ",
    "leaky relu": "m = LeakyRelu <alpha = 0.1> (c) ",
    "depth to space": "u = DepthToSpace <blocksize = 2> (c) m = Concat <axis = 1> (u, u, u, u) ",
}


@pytest.mark.parametrize("move", MOVES)
def test_operators_between_convolutions_are_integer_too(move: str, tmp_path: Path) -> None:
    weights = {
        "w1": weight(16, 16, 1, 1),
        "w2": weight(16, 16, 1, 1, seed=2),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
        "flat": np.asarray([0, 16, 64]),
        "square": np.asarray([0, 16, 8, 8]),
        "starts": np.asarray([1, 2]),
        "ends": np.asarray([7, 9]),
        "axes": np.asarray([2, 3]),
    }
    text = MOVES[move]
    used = {name: array for name, array in weights.items() if name.startswith("w") or name in text}
    model = build(f"g (float[2,16,8,8] x) => (float[2,16,H,W] y) {{ c = Conv (x, w1) {text} y = Conv (m, w2) }}", used)
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = quantised(model, plan)
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    moved = move in ("max pool", "resize", "nearest", "reshape and transpose", "slice")
    assert len(scales) == (3 if moved else len(plan.ranges))  # what is only moved keeps the range of what it was
    ran = tools.fused(proto, tmp_path)
    assert ran.count("QLinearConv") == 2
    if move != "resize":  # the engine has integer kernels for it, but fuses only the nearest
        assert ran.count("QuantizeLinear") == 1  # of x
        assert ran.count("DequantizeLinear") == 1  # of y
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert tools.sqnr(want, got) > 28


def test_a_cubic_resize_stays_float_with_its_own_range(tmp_path: Path) -> None:
    model = build(
        "g (float[2,16,8,8] x) => (float[2,16,16,16] y) "
        '{ c = Conv (x, w1) m = Resize <mode = "cubic"> (c, , s) y = Conv (m, w2) }',
        {"w1": weight(16, 16, 1, 1), "w2": weight(16, 16, 1, 1, seed=2), "s": np.asarray([1, 1, 2, 2], np.float32)},
    )
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    assert "m" in plan.ranges
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(quantised(model, plan), feeds).values()
    assert tools.sqnr(want, got) > 28


def test_layers_read_in_bodies_of_control_flow_are_valid() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,16,8,8] x, bool p) => (float[2,16,8,8] y) {
          c = Conv (x, w)
          y = If (p) <then_branch = t () => (float[2,16,8,8] a) { a = Exp(c) },
                      else_branch = e () => (float[2,16,8,8] b) { b = Neg(c) }>
        }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight(16, 16, 1, 1), "w"))
    model = ir.from_proto(proto)
    values = {"x": data(2, 16, 8, 8) / 3}
    (layer,) = find_layers(model.graph)
    plan = Plan(modes={layer.name: "static"}, ranges={"x": (-2.0, 2.0), "c": (-2.0, 2.0)})
    got = quantised(model, plan)
    for branch in (True, False):
        feeds = {**values, "p": np.asarray(branch)}
        assert tools.sqnr(run(proto, feeds)["y"], run(got, feeds)["y"]) > 28


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_activations(scale: float) -> None:
    model = conv((16, 8, 3, 3), 1, bias=False)
    feeds = {"x": data(1, 8, 9, 7) * np.float32(scale)}
    proto = quantised(model, plan_for(model, feeds))
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds, level="all").values()
    assert np.all(np.isfinite(got))
    if scale >= 1e-6:
        assert tools.sqnr(want, got) > 30
    else:  # below what a scale can stand for: zero, not noise
        assert np.max(np.abs(got)) <= np.max(np.abs(want)) + 1e-16


def test_a_dead_channel_gives_its_bias(tmp_path: Path) -> None:
    weights = {"w": weight(16, 8, 3, 3), "b": vector(16)}
    weights["w"][[2, 5]] = 0
    model = build("g (float[N,8,9,7] x) => (float[N,16,7,5] y) { y = Conv (x, w, b) }", weights)
    feeds = {"x": data(2, 8, 9, 7) * np.float32(100)}
    plan = plan_for(model, feeds)
    got = run(quantised(model, plan), feeds)["y"]
    for channel in (2, 5):
        error = np.abs(got[:, channel] - weights["b"][channel])
        assert np.max(error) <= tools.step(plan.ranges["y"]) * 0.51


def test_a_bias_beyond_32_bits_is_kept() -> None:
    weights = {"w": weight(16, 8, 3, 3) * np.float32(1e-5), "b": np.linspace(-3e6, 3e6, 16).astype(np.float32)}
    model = build("g (float[N,8,9,7] x) => (float[N,16,7,5] y) { y = Conv (x, w, b) }", weights)
    feeds = {"x": data(2, 8, 9, 7) / 100}
    plan = plan_for(model, feeds)
    for level in ("none", "all"):
        got = run(quantised(model, plan), feeds, level=level)["y"]
        want = run(tools.proto_of(model), feeds)["y"]
        assert np.max(np.abs(got - want)) <= tools.step(plan.ranges["y"]) * 0.51 + 1


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        ({"nobody": "static"}, "layers that the graph has not: nobody"),
        ({"Conv_0": "dynamic"}, "wants 'Conv_0' dynamic, which no conv layer can be"),
        ({"Conv_0": "blockwise"}, "which no conv layer can be"),
        ({"Conv_0": "static"}, "no range for 'x'"),
    ],
)
def test_plans_that_do_not_fit_the_graph_are_refused(modes: Any, words: str) -> None:
    model = conv((16, 8, 3, 3))
    with pytest.raises(InternalError, match=words):
        insert(model, Plan(modes=modes), U8S8, STANDARD)


def test_an_empty_plan_changes_nothing() -> None:
    model = residual()
    before = tools.proto_of(model).SerializeToString(deterministic=True)
    insert(model, Plan(modes={}), U8S8, FUSED)
    assert tools.proto_of(model).SerializeToString(deterministic=True) == before


def test_the_same_plan_gives_the_same_bytes() -> None:
    model = residual()
    plan = plan_for(model, {"x": data(2, 16, 8, 8)})
    one, other = (quantised(model, plan).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


def test_forms_follow_the_operators_of_the_backend() -> None:
    assert forms_of(()) == Forms(fused_products=False)
    products = ("com.microsoft.MatMulIntegerToFloat", "com.microsoft.DynamicQuantizeMatMul")
    assert not forms_of(products[:1]).fused_products
    assert forms_of((*products, "com.microsoft.DynamicQuantizeLSTM")) == FUSED


def test_a_value_that_was_only_moved_takes_the_range_of_what_it_was_moved_from() -> None:
    """With the first convolution back in float, the pooled value carries Q/DQ of its own, which nobody observed."""
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w, b) m = MaxPool <kernel_shape = [2, 2]> (c) y = Conv (m, v)"
    weights = {"w": weight(8, 8, 3, 3), "b": vector(8), "v": weight(8, 8, 3, 3)}
    model = build(f"g (float[N,8,9,7] x) => (float[N,M,H,W] y) {{ {body} }}", weights)
    first, second = (layer.name for layer in find_layers(model.graph))
    ranges = {"x": (-4.0, 4.0), "c": (-9.0, 7.0), "y": (-30.0, 30.0)}
    insert(model, Plan(modes={second: "static"}, operators=frozenset({"MaxPool"}), ranges=ranges), U8S8, FUSED)
    zero_points = {
        node.inputs[0].name: float(node.inputs[1].const_value.numpy())
        for node in model.graph
        if node.op_type == "QuantizeLinear"
    }
    assert first != second
    assert zero_points["m"] == pytest.approx(16 / 255)
