"""What is predicted of TensorRT's plans, on graphs whose fusions its documentation spells out."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgebuild.bundle.manifest import Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cli.predicted_plan import plan_lines
from edgebuild.explain.plan_section import plan_section
from edgebuild.explain.plan_words import CAUTION, statements
from edgebuild.explain.tensorrt_plan import PredictedPlan, predict_plan, predict_plans
from edgebuild.graph.io import load_model
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.insert import forms_of
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Plan
from edgebuild.targets.spec import QuantizationScheme

SCHEME = QuantizationScheme(
    activation="int8",
    weight="int8",
    symmetric_activations=True,
    per_channel=True,
    reduce_range=False,
    placement="tensorrt",
)
OPERATORS = frozenset({"Add", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Mul", "Sigmoid"})


def graph(path: Path, body: str, **shapes: tuple[int, ...]) -> Path:
    """A float graph with seeded weights and named nodes."""
    rng = np.random.default_rng(1)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
    for name, shape in shapes.items():
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 10, name)
        )
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return path


def quantised(path: Path, *, placement: str = "tensorrt") -> PredictedPlan:
    """The prediction for the graph with INT8 wherever it can be."""
    model = load_model(path)
    values = [value.name or "" for node in model.graph for value in node.outputs] + ["x"]
    plan = Plan(
        modes={layer.name: "static" for layer in find_layers(model.graph)},
        operators=OPERATORS,
        ranges=dict.fromkeys(values, (-1.0, 1.0)),
    )
    scheme = QuantizationScheme(**{**vars(SCHEME), "placement": placement})
    written = write_candidate(path, plan, scheme, forms_of(()), path.with_name(f"{placement}.onnx"))
    return predict_plan("tensorrt-int8", onnx.load(written))


RESIDUAL = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
  r = Relu(a)
  c = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
  s = Add(c, r)
  t = Relu(s)
  y = Conv <pads = [1, 1, 1, 1]> (t, w3, b)
}"""
SHAPES = {"w1": (16, 16, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 3, 3), "b": (16,)}


def test_a_residual_block_is_three_kernels_on_integers(tmp_path: Path) -> None:
    plan = quantised(graph(tmp_path / "g.onnx", RESIDUAL, **SHAPES))
    assert [kernel.operators for kernel in plan.kernels] == ["Conv + Relu", "Conv + Add + Relu", "Conv"]
    assert [(kernel.precision, kernel.output) for kernel in plan.kernels] == [
        ("int8", "int8"),
        ("int8", "int8"),
        ("int8", "float32"),
    ]
    assert plan.integer == 3
    assert not plan.floats
    (entry,) = plan.conversions  # the input becomes integers once; the last convolution's kernel gives float
    assert (entry.operator, entry.value, entry.why) == ("QuantizeLinear", "x", "an input of the model")
    assert plan.absorbed == plan.pairs - 1


def test_without_the_rules_of_placement_the_sum_would_be_a_kernel_of_its_own(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", RESIDUAL, **SHAPES)
    around_all = quantised(path, placement="operators")
    assert [kernel.operators for kernel in around_all.kernels] == ["Conv + Relu", "Conv", "Add + Relu", "Conv"]
    assert around_all.integer == 4
    assert quantised(path).pairs < around_all.pairs


def test_float_operators_between_integer_ones_are_named_with_what_they_cost(tmp_path: Path) -> None:
    body = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
      a = Conv <pads = [1, 1, 1, 1]> (x, w1, b)
      n = InstanceNormalization(a, b, b)
      y = Conv <pads = [1, 1, 1, 1]> (n, w2, b)
    }"""
    plan = quantised(graph(tmp_path / "g.onnx", body, **{k: SHAPES[k] for k in ("w1", "w2", "b")}))
    assert [kernel.precision for kernel in plan.kernels] == ["int8", "float32", "int8"]
    assert plan.floats == {"InstanceNormalization": 1}
    assert [entry.value for entry in plan.conversions] == ["x", "n"]
    text = " ".join(statements(plan))
    assert "in float: InstanceNormalization" in text
    assert "InstanceNormalization 'InstanceNormalization_1' gives it in float" in text


def test_a_float_graph_has_kernels_and_no_word_about_integers(tmp_path: Path) -> None:
    path = graph(
        tmp_path / "g.onnx",
        RESIDUAL.replace("y = Conv", "v = Conv").replace("(t, w3, b)", "(t, w3, b)\n  y = Sigmoid(v)"),
        **SHAPES,
    )
    plan = predict_plan("tensorrt-float32", onnx.load(path))
    assert [kernel.operators for kernel in plan.kernels] == ["Conv + Relu", "Conv + Add + Relu", "Conv + Sigmoid"]
    assert {kernel.precision for kernel in plan.kernels} == {"float32"}
    assert (plan.pairs, plan.conversions) == (0, ())
    assert not any("integers" in text for text in statements(plan))


@pytest.mark.parametrize(("half", "kernels"), [(True, 1), (False, 4)])
def test_attention_is_one_kernel_in_half_precision(half: bool, kernels: int, tmp_path: Path) -> None:
    kind = "float16" if half else "float"
    body = f"""g ({kind}[1,4,8,16] q, {kind}[1,4,16,8] k, {kind}[1,4,8,16] v) => ({kind}[1,4,8,16] y) {{
      s = MatMul(q, k)
      f = Mul(s, factor)
      p = Softmax <axis = -1> (f)
      y = MatMul(p, v)
    }}"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
    factor = np.asarray(0.25, np.float16 if half else np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(factor, "factor"))
    plan = predict_plan("tensorrt-float16", proto)
    assert len(plan.kernels) == kernels
    if half:
        assert plan.kernels[0].operators == "MatMul + Mul + Softmax + MatMul"


def test_sizes_and_views_are_no_kernels_and_casts_are_passes_over_memory(tmp_path: Path) -> None:
    body = """g (float[N,4,8] x) => (float16[N,M] y) {
      s = Shape <start = 0, end = 1> (x)
      t = Concat <axis = 0> (s, rest)
      f = Reshape(x, t)
      h = Cast <to = 10> (f)
      e = Exp(h)
      l = Neg(e)
      y = Abs(l)
    }"""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{body}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([32], np.int64), "rest"))
    plan = predict_plan("tensorrt-float16", proto)
    assert [kernel.operators for kernel in plan.kernels] == ["Exp + Neg + Abs"]
    assert plan.views == 1
    assert [(entry.operator, entry.source, entry.target) for entry in plan.conversions] == [
        ("Cast", "float32", "float16")
    ]


def test_a_section_of_the_page_says_that_it_is_a_prediction_and_escapes_names(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", RESIDUAL, **SHAPES)
    proto = onnx.load(path)
    proto.graph.node[0].name = "<conv>"
    text = "".join(plan_section(predict_plan("tensorrt-float32", proto)))
    assert "&lt;conv&gt;" in text
    assert "<conv>" not in text
    assert escape(CAUTION) in text


def test_only_tensorrt_variants_of_a_bundle_are_predicted_and_a_terminal_gets_the_first_kernels(tmp_path: Path) -> None:
    body = "g (float[1,16,8,8] x) => (float[1,16,8,8] y) {\n"
    body += "".join(f"v{i + 1} = Conv <pads = [1, 1, 1, 1]> ({f'v{i}' if i else 'x'}, w1)\n" for i in range(19))
    model = graph(tmp_path / "g.onnx", body + "y = Conv <pads = [1, 1, 1, 1]> (v19, w1) }", w1=(16, 16, 3, 3))
    kind = TensorType(dtype="float32", shape=(1, 16, 8, 8))
    fields: dict[str, Any] = {"precision": "float32", "inputs": ("x",), "outputs": ("y",), "model": "model/m.onnx"}
    fields["tolerances"] = {"y": Tolerance(atol=0.0, rtol=0.0)}
    write_bundle(
        tmp_path / "m.edge",
        name="m",
        target=Target(name="board", arch="aarch64", triple="aarch64-linux-gnu"),
        signature=Signature(
            inputs=(ValueSpec(name="x", type=kind),),
            outputs=(ValueSpec(name="y", type=kind),),
            output_structure={"tensor": 0},
        ),
        variants=[
            Variant(name="trt", backend="tensorrt", plugin="lib/p.so", **fields),
            Variant(name="cpu", backend="onnxruntime", **fields),
        ],
        files=[BundleFile(path="model/m.onnx", source=model), BundleFile(path="lib/p.so", source=b"")],
        goldens=[],
    )
    (plan,) = predict_plans(Bundle.open(tmp_path / "m.edge"))
    assert (plan.variant, len(plan.kernels)) == ("trt", 20)
    short, whole = plan_lines(plan), plan_lines(plan, verbose=True)
    assert "will probably" in short[0]
    assert "no TensorRT was asked" in short[1]
    assert short[-1] == "  and 8 more (-v shows all)"
    assert sum("Conv_" in line for line in whole) == 20
