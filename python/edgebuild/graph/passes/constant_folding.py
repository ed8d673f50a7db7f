"""Evaluates nodes whose inputs are all constant.

Takes: any operator of the standard domain that ONNX Runtime has, evaluated by ONNX Runtime itself without graph
optimisations, so that a folded value is what the engine would have computed. Bodies of control flow are visited.

Refuses: random operators; operators with bodies; (de)quantisation, whose place in the graph is what quantisation means;
sequences, optionals and types that numpy lacks; inputs over ``max_input_bytes``; results whose size can't be told
beforehand for operators that expand, or is over ``max_output_bytes`` and grows the model; initialisers that a caller may override;
results that are graph outputs stay outputs by way of an Identity.

Numbers: the same as at run time on this engine and CPU family.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.invariants import subgraphs
from edgebuild.graph.values import (
    add_initializer,
    constant_tensor,
    is_op,
    opset_of,
    remove_node,
    static_dims,
    unique_name,
)

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_QUANTISATION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_EXPANDING_OPS = frozenset(
    {
        *("ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "OneHot", "EyeLike", "Col2Im"),
        *(
            "AffineGrid",
            "MaxUnpool",
            "MelWeightMatrix",
            "HannWindow",
            "HammingWindow",
            "BlackmanWindow",
            "CenterCropPad",
        ),
    }
)
_NUMPY_TYPES = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BOOL,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
    }
)


class ConstantFolding(GraphPass):
    """Replaces constant nodes by initialisers.

    Args:
        max_input_bytes: A node that reads more is left alone.
        max_output_bytes: A result that is larger, and larger than the constants that it makes unnecessary, is not kept.
    """

    def __init__(self, *, max_input_bytes: int = 64 << 20, max_output_bytes: int = 1 << 20) -> None:
        super().__init__()
        self._max_input_bytes = max_input_bytes
        self._max_output_bytes = max_output_bytes
        self._refused: dict[int, tuple[ir.Node, tuple[int, ...]]] = {}

    @property
    def name(self) -> str:
        return "constant-folding"

    def rewrite(self, model: ir.Model) -> int:
        return self._fold_graph(model, model.graph)

    def _fold_graph(self, model: ir.Model, graph: ir.Graph) -> int:
        folded = 0
        for node in list(graph):
            for body in subgraphs(node):
                folded += self._fold_graph(model, body)
            folded += int(self._fold(model, node))
        return folded

    def _fold(self, model: ir.Model, node: ir.Node) -> bool:
        if not is_op(node, node.op_type) or node.op_type in RANDOM_OPS | _QUANTISATION_OPS:
            return False
        if node.op_type == "Constant":
            return _lift(model.graph, node)
        if node.op_type == "CastLike":
            cast = _cast_like_to_cast(node)
            if cast is not None:
                self._fold(model, cast)
            return cast is not None
        if any(output.is_graph_output() for output in node.outputs) or next(subgraphs(node), None) is not None:
            return False
        tensors = [constant_tensor(value) for value in node.inputs if value is not None]
        if not node.inputs or len(tensors) != sum(value is not None for value in node.inputs):
            return False
        constants = [tensor for tensor in tensors if tensor is not None]
        if len(constants) != len(tensors) or any(attribute.is_ref() for attribute in node.attributes.values()):
            return False
        if any(tensor.dtype not in _NUMPY_TYPES for tensor in constants):
            return False
        key = tuple(id(tensor) for tensor in constants)
        if self._refused.get(id(node)) == (node, key):  # it was tried in an earlier round
            return False
        results = self._evaluate(model, node, constants)
        if results is None:
            self._refused[id(node)] = (node, key)
            return False
        for output, array in zip(node.outputs, results, strict=True):
            if array is None:
                continue
            wanted, output.name = output.name or "folded", None
            value = add_initializer(model.graph, wanted, array, ir.DataType.from_numpy(array.dtype))
            ir.convenience.replace_all_uses_with(output, value)
        remove_node(node)
        return True

    def _evaluate(
        self, model: ir.Model, node: ir.Node, constants: list[ir.TensorProtocol]
    ) -> list[npt.NDArray[np.generic] | None] | None:
        input_bytes = sum(tensor.nbytes for tensor in constants)
        if input_bytes > self._max_input_bytes:
            return None
        only_here = {
            id(v): v.const_value.nbytes
            for v in node.inputs
            if v is not None and v.const_value is not None and all(user is node for user, _ in v.uses())
        }
        budget = max(self._max_output_bytes, sum(only_here.values()))
        predicted = _predicted_elements(model, node)
        if (predicted is None and node.op_type in _EXPANDING_OPS) or (predicted is not None and predicted > budget):
            return None
        results = evaluate_node(node, opset_of(model))
        if results is None or sum(array.nbytes for array in results if array is not None) > budget:
            return None
        if any(array is not None and array.dtype.hasobject for array in results):
            return None
        return results


def _cast_like_to_cast(node: ir.Node) -> ir.Node | None:
    """CastLike of a constant waits for a type only: with that known it is a Cast, which folds."""
    like = node.inputs[1]
    if constant_tensor(node.inputs[0]) is None or like is None or like.dtype is None or node.graph is None:
        return None
    if node.outputs[0].is_graph_output() or like.dtype == ir.DataType.UNDEFINED:
        return None
    output = node.outputs[0]
    name, output.name = output.name, None
    cast = ir.node("Cast", [node.inputs[0]], {"to": like.dtype.value}, name=node.name)
    cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(like.dtype), output.shape
    node.graph.insert_before(node, cast)
    ir.convenience.replace_all_uses_with(output, cast.outputs[0])
    remove_node(node)
    return cast


def _lift(main: ir.Graph, node: ir.Node) -> bool:
    """Turn a Constant node into an initialiser; one that is an output stays, since outputs need a maker."""
    output = node.outputs[0]
    tensor = ir.convenience.get_const_tensor(output)
    if tensor is None or output.is_graph_output() or "sparse_value" in node.attributes:
        return False
    wanted, output.name = output.name or "constant", None
    name = unique_name(main, wanted)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(static_dims(tensor)), const_value=tensor
    )
    main.register_initializer(value)
    ir.convenience.replace_all_uses_with(output, value)
    remove_node(node)
    return True


def _predicted_elements(model: ir.Model, node: ir.Node) -> int | None:
    """Elements of all outputs as far as ONNX can infer them, None if not."""
    proto = ir.serde.serialize_node(node)
    types, data = {}, {}
    for value in node.inputs:
        tensor = constant_tensor(value)
        if value is None or tensor is None or value.name is None:
            continue
        types[value.name] = onnx.helper.make_tensor_type_proto(tensor.dtype.value, static_dims(tensor))
        if tensor.size <= 64:
            data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset_of(model), "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid("", opset_of(model))]
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return None
    total = 0
    for kind in inferred.values():
        if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            return None
        total += math.prod(dim.dim_value for dim in dims)
    return total if len(inferred) == sum(bool(output.name) for output in node.outputs) else None


def evaluate_node(node: ir.Node, opset: int) -> list[npt.NDArray[np.generic] | None] | None:
    """Run one node on its constant inputs in ONNX Runtime; None where that engine can't.

    An output that is not asked for (no name) gives None in its place.
    """
    import onnxruntime

    feeds: dict[str, npt.NDArray[np.generic]] = {}
    inputs: list[onnx.ValueInfoProto] = []
    names: list[str] = []
    for index, value in enumerate(node.inputs):
        tensor = constant_tensor(value)
        if tensor is None:
            names.append("")
            continue
        name = f"input{index}"
        names.append(name)
        feeds[name] = np.asarray(tensor.numpy(), order="C")
        inputs.append(onnx.helper.make_tensor_value_info(name, tensor.dtype.value, static_dims(tensor)))
    proto = ir.serde.serialize_node(node)
    del proto.input[:]
    del proto.output[:]
    proto.input.extend(names)
    wanted = [f"output{index}" if output.name else "" for index, output in enumerate(node.outputs)]
    proto.output.extend(wanted)
    graph = onnx.helper.make_graph([proto], "fold", inputs, [onnx.ValueInfoProto(name=name) for name in wanted if name])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = iter(session.run(None, feeds))
    except Exception:  # the engine's own exception types have no common base; whatever it can't run stays in the graph
        return None
    arrays = [next(results) if name else None for name in wanted]
    return None if any(array is not None and not isinstance(array, np.ndarray) for array in arrays) else arrays
