"""Removes nodes that return their input unchanged.

Takes: Identity; Dropout in inference; Cast and CastLike to the type that the input has; Transpose by the identity
permutation; Reshape to the input's own static shape; Flatten of what is already 2-D; Expand, Tile and Pad that add
nothing; Concat, Sum, Max, Min and Mean of one input.

Refuses: Dropout that trains, or whose training flag or mask is used; a Cast whose input type is unknown; a Reshape where any axis
is symbolic (equal names are not equal sizes across models); a node between a graph's input or initialiser and its
output, since the output needs a node that makes it; Max and Min of one input are taken, their NaN rule needs two.

Numbers: none change.
"""

from collections.abc import Callable

import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.values import (
    bypass,
    constant_array,
    input_at,
    int_attribute,
    is_op,
    remove_node,
    static_shape,
)

_MAX_SHAPE_ELEMENTS = 64


class IdentityElimination(GraphPass):
    """Removes no-op nodes from the graph and all bodies."""

    @property
    def name(self) -> str:
        return "identity-elimination"

    def rewrite(self, model: ir.Model) -> int:
        removed = 0
        for node in list(model.graph.all_nodes()):
            rule = _RULES.get(node.op_type)
            source = input_at(node, 0)
            if rule is None or source is None or not is_op(node, node.op_type):
                continue
            if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
                continue
            if rule(node, source) and self._remove(node, source):
                removed += 1
        return removed

    @staticmethod
    def _remove(node: ir.Node, source: ir.Value) -> bool:
        output = node.outputs[0]
        kind, shape = output.type, output.shape
        if not bypass(output, source):
            return False
        if source.producer() is not None:  # what was known only behind the node
            if source.type is None:
                source.type = kind
            if source.shape is None:
                source.shape = shape
        remove_node(node)
        return True


def _always(node: ir.Node, source: ir.Value) -> bool:
    return True


def _dropout(node: ir.Node, source: ir.Value) -> bool:
    training = input_at(node, 2)  # before opset 12 there is no flag, and Dropout is for inference only
    if training is None:
        return int_attribute(node, "is_test", 1) != 0
    flag = constant_array(training, max_elements=1)
    return flag is not None and flag.size == 1 and not bool(flag.item())


def _cast(node: ir.Node, source: ir.Value) -> bool:
    to = int_attribute(node, "to", 0)
    return source.dtype is not None and to is not None and source.dtype.value == to


def _cast_like(node: ir.Node, source: ir.Value) -> bool:
    target = input_at(node, 1)
    return source.dtype is not None and target is not None and source.dtype == target.dtype


def _transpose(node: ir.Node, source: ir.Value) -> bool:
    permutation = node.attributes.get("perm")
    if permutation is None:  # the default reverses the axes
        return source.shape is not None and len(source.shape) <= 1
    return not permutation.is_ref() and list(permutation.as_ints()) == list(range(len(permutation.as_ints())))


def _reshape(node: ir.Node, source: ir.Value) -> bool:
    before = static_shape(source)
    if before is None:
        return False
    if before == static_shape(node.outputs[0]):
        return True
    wanted = constant_array(input_at(node, 1), max_elements=_MAX_SHAPE_ELEMENTS)
    return wanted is not None and before == tuple(wanted.tolist()) and 0 not in before


def _flatten(node: ir.Node, source: ir.Value) -> bool:
    return source.shape is not None and len(source.shape) == 2 and int_attribute(node, "axis", 1) in (1, -1)


def _expand(node: ir.Node, source: ir.Value) -> bool:
    wanted = constant_array(input_at(node, 1), max_elements=_MAX_SHAPE_ELEMENTS)
    if wanted is None or source.shape is None or wanted.size > len(source.shape):
        return False
    own = list(source.shape)[len(source.shape) - wanted.size :]
    return all(size in (1, dim) for size, dim in zip(wanted.tolist(), own, strict=True))


def _tile(node: ir.Node, source: ir.Value) -> bool:
    repeats = constant_array(input_at(node, 1), max_elements=_MAX_SHAPE_ELEMENTS)
    return repeats is not None and bool((repeats == 1).all())


def _pad(node: ir.Node, source: ir.Value) -> bool:
    attribute = node.attributes.get("pads")  # before opset 11
    if attribute is not None:
        return not attribute.is_ref() and not any(attribute.as_ints())
    pads = constant_array(input_at(node, 1), max_elements=2 * _MAX_SHAPE_ELEMENTS)
    return pads is not None and not pads.any()


def _single(node: ir.Node, source: ir.Value) -> bool:
    return len(node.inputs) == 1


_RULES: dict[str, Callable[[ir.Node, ir.Value], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
}
