"""Gives one name to axes that go by two.

Exporters name the axes inside of a graph by themselves, while inputs carry the names of the signature. Whether a Reshape
keeps an axis can then not be told by comparing names.

Takes: a value whose axis has one name in the model and another by ONNX's own inference from the inputs: both are the same size in
every run, so the one that inference brought (an input's, where there is one) replaces the other everywhere inside.

Refuses: to touch inputs and outputs of the graph; names inside bodies and functions.

Numbers: none change.
"""

import re

import onnx
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.passes.shape_inference import proto_without_weights

_NAME = re.compile(r"[A-Za-z_]\w*")


class AxisNames(GraphPass):
    """Renames symbolic axes inside the graph after the inputs' axes that they equal."""

    @property
    def name(self) -> str:
        return "axis-names"

    def rewrite(self, model: ir.Model) -> int:
        frozen = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
        inputs = {name for value in model.graph.inputs for name in _names(value) if name}
        inside = [v for node in model.graph for v in node.outputs if id(v) not in frozen]
        if not any(name and name not in inputs for value in inside for name in _names(value)):
            return 0
        proto = proto_without_weights(model)
        del proto.graph.value_info[:]
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
        except Exception:  # the C++ side raises RuntimeError and its own; shape-inference says so to the user
            return 0
        found = {info.name: info.type.tensor_type.shape.dim for info in inferred.graph.value_info}
        same: dict[str, str] = {}
        for value in inside:
            dims = found.get(value.name or "", ())
            for old, dim in zip(_names(value), dims, strict=False):
                new = dim.dim_param
                if old and new in inputs and old not in inputs and _NAME.fullmatch(new):
                    same.setdefault(old, new)
        return sum(_rename(value, same) for value in inside) if same else 0


def _names(value: ir.Value) -> list[str | None]:
    if value.shape is None:
        return []
    return [
        dim.value if isinstance(dim, ir.SymbolicDim) and dim.value and _NAME.fullmatch(dim.value) else None
        for dim in value.shape
    ]


def _rename(value: ir.Value, same: dict[str, str]) -> int:
    if value.shape is None or not any(isinstance(dim, ir.SymbolicDim) and dim.value for dim in value.shape):
        return 0
    dims: list[int | str | None] = []
    for dim in value.shape:
        if isinstance(dim, int):
            dims.append(dim)
        else:
            # Also inside expressions: "2*s77" becomes "2*batch".
            dims.append(_NAME.sub(lambda m: same.get(m.group(), m.group()), dim.value) if dim.value else None)
    shape = ir.Shape(dims)
    if shape == value.shape:
        return 0
    value.shape = shape
    return 1
