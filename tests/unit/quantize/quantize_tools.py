"""What the tests of quantised graphs share: small models, their ranges, and runs before and after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from edgebuild.backends.operators import register_operators
from edgebuild.graph.framework import checked_passes
from edgebuild.graph.invariants import GraphInterface, check_graph
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.quantize.insert import Forms, insert, static_region
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.region import ARITHMETIC, MOVING
from edgebuild.targets.spec import QuantizationScheme

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

U8S8 = QuantizationScheme(
    activation="uint8",
    weight="int8",
    symmetric_activations=False,
    per_channel=True,
    reduce_range=False,
    cpu_features=(),
)
SEVEN_BIT = QuantizationScheme(
    activation="uint8", weight="int8", symmetric_activations=False, per_channel=True, reduce_range=True, cpu_features=()
)
PER_TENSOR = QuantizationScheme(
    activation="uint8",
    weight="int8",
    symmetric_activations=False,
    per_channel=False,
    reduce_range=True,
    cpu_features=(),
)
SYMMETRIC = QuantizationScheme(
    activation="int8", weight="int8", symmetric_activations=True, per_channel=True, reduce_range=True, cpu_features=()
)
TENSORRT = QuantizationScheme(
    activation="int8",
    weight="int8",
    symmetric_activations=True,
    per_channel=True,
    reduce_range=False,
    placement="tensorrt",
)
FUSED = Forms(fused_products=True, recurrent=True)
STANDARD = Forms(fused_products=False)
EVERYTHING = MOVING | ARITHMETIC


def build(body: str, weights: Mapping[str, Array], *, opset: int = 17) -> ir.Model:
    """A model from ONNX text with initialisers, shapes inferred."""
    imports = f'"" : {opset}' + (', "com.microsoft" : 1' if "com.microsoft." in body else "")
    proto = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]>\n{body}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto, full_check=True)
    model = ir.from_proto(proto)
    for index, node in enumerate(model.graph):
        node.name = node.name or f"{node.op_type}_{index}"
    ShapeInference()(model)
    return model


def weight(*shape: int, seed: int = 0, gain: float = 1.0) -> Array:
    """Normal, scaled as a trained layer's would be: outputs are as large as inputs."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
    return (np.random.default_rng(seed).standard_normal(shape) * gain / np.sqrt(fan_in)).astype(np.float32)


def vector(size: int, seed: int = 7) -> Array:
    return (np.random.default_rng(seed).standard_normal(size) * 0.3).astype(np.float32)


def data(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def proto_of(model: ir.Model) -> onnx.ModelProto:
    return ir.to_proto(model)


def session(proto: onnx.ModelProto, *, optimised: Path | None = None, level: str = "all") -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    register_operators(options)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(proto: onnx.ModelProto, feeds: Feeds, *, level: str = "none") -> dict[str, Array]:
    opened = session(proto, level=level)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, dict(feeds)), strict=True))


def all_values(proto: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    """Every float value of a float graph, by the engine without any optimisation."""
    inferred = onnx.shape_inference.infer_shapes(proto)
    known = {o.name for o in inferred.graph.output}
    inferred.graph.output.extend(
        v for v in inferred.graph.value_info if v.name not in known and v.type.tensor_type.elem_type == 1
    )
    return {**feeds, **run(inferred, feeds)}


def plan_for(
    model: ir.Model,
    feeds: Feeds,
    modes: Mapping[str, Mode] | Mode = "static",
    *,
    forms: Forms = STANDARD,
    operators: frozenset[str] = EVERYTHING,
    widen: float = 1.0,
) -> Plan:
    """A plan with the min-max ranges of ``feeds``."""
    if isinstance(modes, str):
        modes = {layer.name: modes for layer in find_layers(model.graph)}
    values = all_values(proto_of(model), feeds)
    bare = Plan(modes=modes, operators=operators)
    region = static_region(model, bare, forms)
    names = {region.leader(value).name or "" for value in region.carried}
    ranges = {name: (float(values[name].min()) * widen, float(values[name].max()) * widen) for name in sorted(names)}
    return Plan(modes=modes, operators=operators, ranges=ranges)


def quantised(
    model: ir.Model, plan: Plan, *, scheme: QuantizationScheme = U8S8, forms: Forms = STANDARD
) -> onnx.ModelProto:
    """The model rewritten by a plan, a copy that every check of graphs has passed; ``model`` stays as it is."""
    copy = ir.from_proto(ir.to_proto(model))
    before = GraphInterface.of(copy)
    insert(copy, plan, scheme, forms)
    check_graph(copy)
    assert before.difference(GraphInterface.of(copy)) is None
    with checked_passes():
        DeadCodeElimination()(copy)
    check_graph(copy)
    proto = ir.to_proto(copy)
    if all(entry.domain in ("", "ai.onnx") for entry in proto.opset_import):
        onnx.checker.check_model(proto, full_check=True)
    return proto


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def fused(proto: onnx.ModelProto, folder: Path) -> list[str]:
    """Operators of the graph as ONNX Runtime runs it."""
    path = folder / "optimised.onnx"
    session(proto, optimised=path)
    return operators(onnx.load(path))


def sqnr(expected: Array, got: Array) -> float:
    a, b = expected.astype(np.float64), got.astype(np.float64)
    return float(10 * np.log10(np.sum(a**2) / max(np.sum((a - b) ** 2), 1e-300)))


def step(pair: tuple[float, float], levels: int = 255) -> float:
    """One step of a range that holds 0."""
    return (max(pair[1], 0.0) - min(pair[0], 0.0)) / levels


def layer_bound(x: Array, w: Array, *, x_step: float, limit: int = 127, axis: int = 0) -> Array:
    """Largest error of each channel of a layer, by the steps of its data and weights: sum |x| dw + |w| dx + dx dw.

    Args:
        x: The data that meets one output: its largest absolute values along the summed axis, ``(K,)``.
        w: ``(channels, K)`` behind ``axis`` is moved to the front.
        x_step: Of the data.
        limit: Of the integer weights.
        axis: The axis of the channels.
    """
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64)
    w_half = np.max(np.abs(rows), axis=1, keepdims=True) / limit / 2
    x_half = x_step / 2 * 1.001
    return np.sum(np.abs(x)[None] * w_half + np.abs(rows) * x_half + w_half * x_half, axis=1)
