"""Fills in types and shapes that ONNX's own inference can tell.

Takes: values without a type or a shape, and symbolic or unknown axes for which a size is found.

Refuses: to change what is known: an inferred size never replaces another size, an inferred symbol never replaces a
symbol, symbols that ONNX invents (``unk__0``) are not written, and the graph's inputs and outputs stay as the signature has them.

Numbers: none change. Memory: large weights stay out of the message that inference reads.
"""

import re

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgebuild.graph.framework import GraphPass

_INVENTED = re.compile(r"unk__\d+$")


class ShapeInference(GraphPass):
    """Adds what ``onnx.shape_inference`` finds to the values of the graph and its bodies."""

    @property
    def name(self) -> str:
        return "shape-inference"

    def rewrite(self, model: ir.Model) -> int:
        known = [(value, value.type, value.dtype, value.shape, _description(value)) for value in _values(model)]
        frozen = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
        frozen.update(id(value) for graph in model.graphs() for value in graph.initializers.values())
        order = list(model.graph.initializers.values())
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        model.graph.initializers.clear()  # it takes weights out and puts them back at the end
        for value in order:
            model.graph.register_initializer(value)
        refined = 0
        for value, kind, dtype, shape, description in known:
            if dtype is not None and value.dtype != dtype:
                value.dtype = dtype
            if id(value) in frozen:
                value.type, value.shape = kind, shape
            else:
                value.shape = _merge(shape, value.shape)
            refined += int(_description(value) != description)
        return refined


def _description(value: ir.Value) -> str:
    return f"{value.type} {value.shape}"


def _values(model: ir.Model) -> list[ir.Value]:
    values: list[ir.Value] = []
    for graph in model.graphs():
        values.extend(graph.inputs)
        values.extend(graph.initializers.values())
        for node in graph:
            values.extend(node.outputs)
    return list({id(value): value for value in values}.values())


def _merge(known: ir.Shape | None, inferred: ir.Shape | None) -> ir.Shape | None:
    if inferred is None:
        return known
    if known is not None and len(known) != len(inferred):
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
