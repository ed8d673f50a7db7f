"""Q/DQ where TensorRT wants them: by structure, against the rules of its documentation, and by numbers, against the float graph."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantize_tools as tools
from onnx import numpy_helper
from quantize_tools import STANDARD, TENSORRT, build, data, plan_for, run, vector, weight

from edgebuild.graph.io import save_model
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan

Array = np.ndarray[Any, Any]
WEIGHTED = ("Conv", "Gemm", "MatMul")
POINTWISE = ("Add", "Clip", "Gelu", "HardSwish", "LeakyRelu", "Mul", "Relu", "Sigmoid")


def placed(model: ir.Model, plan: Plan, folder: Path) -> onnx.ModelProto:
    """As a candidate for TensorRT is written."""
    save_model(ir.from_proto(ir.to_proto(model)), folder / "float.onnx")
    proto = onnx.load(write_candidate(folder / "float.onnx", plan, TENSORRT, STANDARD, folder / "int8.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def quantised_values(proto: onnx.ModelProto) -> set[str]:
    """Activations that become integers."""
    return {node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}


def check(model: ir.Model, proto: onnx.ModelProto, feeds: Mapping[str, Array], plan: Plan) -> None:
    """What holds for every graph: TensorRT's types, no kernel cut in two, and no more noise than with Q/DQ around every operator."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert scale.dtype == np.float32
        assert np.all(scale > 0)
        assert zero.dtype == np.int8
        assert not zero.any()
        assert scale.ndim == 0 or node.input[0] in constants, "only weights have a scale for each channel"
    for node in proto.graph.node:
        if node.op_type in WEIGHTED and len(node.input) > 2:
            assert node.input[2] in constants, "biases are plain floats"
            assert constants[node.input[2]].dtype == np.float32
        if node.op_type in ("Conv", "Gemm") and makers.get(node.input[1]) is not None:
            axis = makers[node.input[1]].attribute[0].i
            assert axis == (0 if node.op_type == "Conv" else 1)
    (want,) = run(tools.proto_of(model), feeds).values()
    (got,) = run(proto, feeds).values()
    (around_all,) = run(tools.quantised(model, plan, scheme=TENSORRT), feeds).values()
    assert 20 < tools.sqnr(want, got) < 80, "quantised, and no more than that"
    assert tools.sqnr(want, got) > tools.sqnr(want, around_all) - 1.0


BLOCK = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  r = Relu(a)
  c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
  s = Add(c, r)
  t = Relu(s)
  y = Conv <pads = [1, 1, 1, 1]> (t, w3, b3)
}"""


def convolutions(count: int, channels: int = 16) -> dict[str, Array]:
    sizes = range(1, count + 1)
    return {f"w{i}": weight(channels, channels, 3, 3, seed=i) for i in sizes} | {
        f"b{i}": vector(channels, 20 + i) for i in sizes
    }


def test_a_residual_block_is_quantised_at_its_shortcut_and_not_before_its_sum(tmp_path: Path) -> None:
    model = build(BLOCK, convolutions(3))
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "r", "t"}  # not c, which the sum takes in, and not y, which goes out
    check(model, proto, feeds, plan)


def test_of_two_convolutions_under_one_sum_one_gives_integers_and_the_other_takes_the_sum_in(tmp_path: Path) -> None:
    body = BLOCK.replace("s = Add(c, r)", "d = Conv <pads = [1, 1, 1, 1]> (r, w4, b4)\n  s = Add(c, d)")
    model = build(body, convolutions(4))
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "r", "c", "t"}
    check(model, proto, feeds, plan)


def test_a_sum_that_nobody_reads_as_integers_has_a_float_shortcut(tmp_path: Path) -> None:
    body = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
      r = Relu(a)
      c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
      s = Add(c, x)
      y = Softmax <axis = 1> (s)
    }"""
    model = build(body, convolutions(2))
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "r"}
    (add,) = (node for node in proto.graph.node if node.op_type == "Add")
    assert "x" in add.input
    check(model, proto, feeds, plan)


@pytest.mark.parametrize(
    "activation",
    [
        "m = Relu(c)",
        "m = LeakyRelu(c)",
        "m = HardSwish(c)",
        "g1 = Sigmoid(c)\n  m = Mul(c, g1)",
        "m = Gelu(c)",
    ],
)
def test_a_convolution_and_its_activation_are_one_kernel(activation: str, tmp_path: Path) -> None:
    body = f"""g (float[N,16,8,8] x) => (float[N,16,8,8] y) {{
      c = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
      {activation}
      y = Conv <pads = [1, 1, 1, 1]> (m, w2, b2)
    }}"""
    model = build(body, convolutions(2), opset=20)
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "m"}
    check(model, proto, feeds, plan)


CONCAT = """g (float[N,16,8,8] x) => (float[N,16,8,8] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  p = Relu(a)
  b = Conv <pads = [1, 1, 1, 1]> (p, w2, b2)
  q = Relu(b)
  j = Concat <axis = 1> (p, q)
  y = Conv <pads = [1, 1, 1, 1]> (j, w3, b3)
}"""


@pytest.mark.parametrize(("gain", "joined"), [(1.0, True), (5.0, True), (60.0, False)])
def test_what_a_concat_joins_has_one_scale_unless_that_costs_too_many_bits(
    gain: float, joined: bool, tmp_path: Path
) -> None:
    weights = convolutions(2) | {"w3": weight(16, 32, 3, 3, seed=3), "b3": vector(16)}
    weights["w2"] = weights["w2"] * np.float32(gain)
    model = build(CONCAT, weights)
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "p", "q", "j"}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    scales = {n.input[0]: float(constants[n.input[1]]) for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    largest = max(abs(end) for name in "pqj" for end in plan.ranges[name]) / 127
    assert (scales["p"] == scales["q"] == scales["j"]) == joined
    assert max(scales[name] for name in "pqj") == pytest.approx(largest)
    if not joined:
        assert scales["p"] == pytest.approx(plan.ranges["p"][1] / 127)
    (want,), (got,) = run(tools.proto_of(model), feeds).values(), run(proto, feeds).values()
    assert tools.sqnr(want, got) > 25


def test_depthwise_blocks_are_quantised_between_their_convolutions_alone(tmp_path: Path) -> None:
    body = """g (float[N,32,8,8] x) => (float[N,32,8,8] y) {
      e = Conv (x, w1, b1)
      f = Clip(e, zero, six)
      d = Conv <group = 64, pads = [1, 1, 1, 1]> (f, w2, b2)
      h = Clip(d, zero, six)
      p = Conv (h, w3, b3)
      s = Add(x, p)
      y = Conv (s, w4, b4)
    }"""
    weights = {
        "w1": weight(64, 32, 1, 1, seed=1),
        "w2": weight(64, 1, 3, 3, seed=2),
        "w3": weight(32, 64, 1, 1, seed=3),
        "w4": weight(32, 32, 1, 1, seed=4),
        "b1": vector(64, 1),
        "b2": vector(64, 2),
        "b3": vector(32, 3),
        "b4": vector(32, 4),
        "zero": np.asarray(0, np.float32),
        "six": np.asarray(6, np.float32),
    }
    model = build(body, weights)
    feeds = {"x": data(2, 32, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "f", "h", "s"}
    (add,) = (node for node in proto.graph.node if node.op_type == "Add")
    assert "x" not in add.input, "the shortcut is integer for the convolution already"
    check(model, proto, feeds, plan)


def test_pooling_keeps_integers_and_what_follows_the_head_is_float(tmp_path: Path) -> None:
    body = """g (float[N,16,8,8] x) => (float[N,10] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
      r = Relu(a)
      m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
      c = Conv <pads = [1, 1, 1, 1]> (m, w2, b2)
      t = Relu(c)
      p = GlobalAveragePool(t)
      f = Flatten(p)
      l = Gemm(f, w3, b3)
      y = Softmax(l)
    }"""
    weights = convolutions(2) | {"w3": weight(16, 40, seed=3), "b3": vector(40)}
    model = build(body.replace("[N,10]", "[N,40]"), weights)
    feeds = {"x": data(2, 16, 8, 8)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "r", "m", "t", "p", "f"}
    check(model, proto, feeds, plan)


TRANSFORMER = """g (float[N,12,32] x) => (float[N,12,32] y) {
  n1 = LayerNormalization <axis = -1> (x, ones, zeros)
  q0 = MatMul(n1, wq)  q = Add(q0, bq)
  k0 = MatMul(n1, wk)  k = Add(k0, bk)
  v0 = MatMul(n1, wv)  v = Add(v0, bv)
  kt = Transpose <perm = [0, 2, 1]> (k)
  scores = MatMul(q, kt)
  scaled = Mul(scores, factor)
  p = Softmax <axis = -1> (scaled)
  o = MatMul(p, v)
  m0 = MatMul(o, wo)  m = Add(m0, bo)
  r = Add(x, m)
  n2 = LayerNormalization <axis = -1> (r, ones, zeros)
  u0 = MatMul(n2, wu)  u = Add(u0, bu)
  g1 = Gelu(u)
  d0 = MatMul(g1, wd)  d = Add(d0, bd)
  y = Add(r, d)
}"""


def test_a_transformer_block_is_quantised_where_products_read_and_nowhere_else(tmp_path: Path) -> None:
    weights = {f"w{c}": weight(32, 32, seed=i) for i, c in enumerate("qkvo")} | {f"b{c}": vector(32) for c in "qkvo"}
    weights |= {"wu": weight(32, 64, seed=8), "wd": weight(64, 32, seed=9), "bu": vector(64), "bd": vector(32)}
    weights |= {"ones": np.ones(32, np.float32), "zeros": np.zeros(32, np.float32)}
    weights |= {"factor": np.asarray(32**-0.5, np.float32)}
    model = build(TRANSFORMER, weights, opset=20)
    feeds = {"x": data(2, 12, 32)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"n1", "o", "n2", "g1"}
    check(model, proto, feeds, plan)


def test_layers_that_stay_float_are_read_and_written_in_float(tmp_path: Path) -> None:
    model = build(BLOCK, convolutions(3))
    feeds = {"x": data(2, 16, 8, 8)}
    first, second, third = (layer.name for layer in find_layers(model.graph))
    plan = plan_for(model, feeds, {first: "static", third: "static"})
    proto = placed(model, plan, tmp_path)
    assert quantised_values(proto) == {"x", "t"}
    float_layer = next(node for node in proto.graph.node if node.name == second)
    assert float_layer.input[0] == "r"
    check(model, proto, feeds, plan)


def test_what_comes_out_has_the_same_names_twice(tmp_path: Path) -> None:
    model = build(BLOCK, convolutions(3))
    plan = plan_for(model, {"x": data(2, 16, 8, 8)})
    names = {value.name for node in model.graph for value in node.outputs}
    protos = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        protos.append(placed(model, plan, tmp_path / name))
    assert protos[0].SerializeToString(deterministic=True) == protos[1].SerializeToString(deterministic=True)
    made = {name for node in protos[0].graph.node for name in node.output}
    assert {"a", "c", "s", "y"} <= made & names, "values without Q/DQ keep the names that explain compares by"


def random_net(seed: int) -> ir.Model:
    """A net of convolutions, activations, sums, joins and pools over earlier values, all of 16 channels."""
    rng = np.random.default_rng(seed)
    lines, weights, alive = [], {}, ["x"]
    for index in range(int(rng.integers(5, 14))):
        source, other = (alive[int(rng.integers(max(0, len(alive) - 3), len(alive)))] for _ in range(2))
        kind = rng.choice(["conv", "conv", "relu", "silu", "add", "join", "pool", "mul"])
        name = f"v{index}"
        if kind == "conv":
            lines.append(f"{name} = Conv <pads = [1, 1, 1, 1]> ({source}, w{index}, b{index})")
            weights |= {f"w{index}": weight(16, 16, 3, 3, seed=seed + index), f"b{index}": vector(16, index)}
        elif kind == "relu":
            lines.append(f"{name} = Relu({source})")
        elif kind == "silu":
            lines += [f"{name}g = Sigmoid({source})", f"{name} = Mul({source}, {name}g)"]
        elif kind == "add":
            lines.append(f"{name} = Add({source}, {other})")
        elif kind == "mul":
            lines.append(f"{name} = Mul({source}, half)")
        elif kind == "pool":
            lines.append(f"{name} = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> ({source})")
        else:
            lines.append(f"{name}j = Concat <axis = 1> ({source}, {other})")
            lines.append(f"{name} = Conv ({name}j, w{index})")
            weights[f"w{index}"] = weight(16, 32, 1, 1, seed=seed + index)
        alive.append(name)
    lines.append(f"y = Conv ({alive[-1]}, wy)")
    weights |= {"wy": weight(16, 16, 1, 1, seed=seed), "half": np.asarray(0.5, np.float32)}
    body = "\n".join(lines)
    used = {name: array for name, array in weights.items() if re.search(rf"\b{name}\b", body)}
    model = build(f"g (float[N,16,8,8] x) => (float[N,16,8,8] y) {{\n{body}\n}}", used)
    DeadCodeElimination()(model)
    return model


@pytest.mark.parametrize("seed", range(16))
def test_whatever_the_net_no_kernel_is_cut_in_two_and_no_noise_comes_in(seed: int, tmp_path: Path) -> None:
    model = random_net(seed)
    feeds = {"x": data(2, 16, 8, 8, seed=seed)}
    plan = plan_for(model, feeds)
    proto = placed(model, plan, tmp_path)
    check(model, proto, feeds, plan)
    readers: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type != "QuantizeLinear" or makers.get(node.input[0]) is None:
            continue
        maker = makers[node.input[0]]
        (dequantize,) = readers[node.output[0]]
        users = readers.get(dequantize.output[0], [])
        assert users, "Q/DQ that nobody reads"
        if maker.op_type == "Conv" and len(readers[node.input[0]]) == 1:
            assert not (len(users) == 1 and users[0].op_type in ("Relu", "Sigmoid")), "an activation cut off"
        for name in maker.input:
            cut = makers.get(name)
            if maker.op_type in ("Relu", "Sigmoid") and cut is not None and cut.op_type == "DequantizeLinear":
                above = makers.get(makers[cut.input[0]].input[0])
                assert above is None or above.op_type != "Conv" or len(readers[cut.output[0]]) > 1
