"""Fills in types and shapes that ONNX's own inference can tell.

Takes: values without a type or a shape, and symbolic or unknown axes for which a size is found.

Refuses: to change what is known: an inferred size never replaces another size, an inferred symbol never replaces a
symbol, symbols that ONNX invents (``unk__0``) are not written, and the graph's inputs and outputs stay as the signature
has them.

Numbers: none change. Memory: weights over 1 KiB stay out of the message that inference reads.
"""

import re

import onnx
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.values import static_dims

_INVENTED = re.compile(r"unk__\d+$")
_LARGEST_INLINE_BYTES = 1024


class ShapeInference(GraphPass):
    """Adds what ``onnx.shape_inference`` finds to the values of the graph and its bodies."""

    @property
    def name(self) -> str:
        return "shape-inference"

    def rewrite(self, model: ir.Model) -> int:
        proto = proto_without_weights(model)
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except Exception as error:  # the C++ side raises RuntimeError and its own; nothing has been changed
            self.note(f"shapes not inferred: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            return 0
        return _refine(model.graph, inferred.graph, {id(value) for value in model.graph.outputs})


def proto_without_weights(model: ir.Model) -> onnx.ModelProto:
    """The model as a message in which weights over 1 KiB are inputs; the model itself is the same afterwards."""
    graph = model.graph
    values, inputs = list(graph.initializers.values()), list(graph.inputs)
    described = [(value, value.type, value.shape) for value in values]
    try:
        for value in values:
            tensor = value.const_value
            if tensor is None or tensor.nbytes <= _LARGEST_INLINE_BYTES or value.name is None:
                continue
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(static_dims(tensor))
            del graph.initializers[value.name]
            if not value.is_graph_input():
                graph.inputs.append(value)
        return ir.serde.serialize_model(model)
    finally:
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()  # and back in the old order
        for value, kind, shape in described:
            value.type, value.shape = kind, shape
            graph.register_initializer(value)


def _refine(graph: ir.Graph, inferred: onnx.GraphProto, frozen: set[int]) -> int:
    found = {info.name: info.type for info in (*inferred.value_info, *inferred.output) if info.HasField("type")}
    refined = 0
    for node, proto in zip(graph, inferred.node, strict=True):
        for output in node.outputs:
            kind = found.get(output.name or "")
            if kind is not None and id(output) not in frozen:
                refined += int(_merge_into(output, kind))
        protos = {attribute.name: attribute for attribute in proto.attribute}
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                refined += _refine(attribute.as_graph(), protos[name].g, frozen)
    return refined


def _merge_into(value: ir.Value, inferred: onnx.TypeProto) -> bool:
    before = f"{value.type} {value.shape}"
    kind = ir.serde.deserialize_type_proto_for_type(inferred)
    if value.type is None and kind is not None and getattr(kind, "dtype", None) != ir.DataType.UNDEFINED:
        value.type = kind
    value.shape = _merge(value.shape, ir.serde.deserialize_type_proto_for_shape(inferred))
    return f"{value.type} {value.shape}" != before


def _merge(known: ir.Shape | None, inferred: ir.Shape | None) -> ir.Shape | None:
    if inferred is None or (known is not None and len(known) != len(inferred)):
        return known
    dims: list[int | str | None] = []
    for index, new in enumerate(inferred):
        old = known[index] if known is not None else None
        if isinstance(old, int):
            dims.append(old)
        elif isinstance(new, int):
            dims.append(new)
        elif isinstance(old, ir.SymbolicDim) and old.value is not None:
            dims.append(old.value)
        else:
            symbol = new.value if isinstance(new, ir.SymbolicDim) else None
            dims.append(None if symbol is None or _INVENTED.match(symbol) else symbol)
    merged = ir.Shape(dims)
    return known if known is not None and merged == known else merged
