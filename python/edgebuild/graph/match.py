"""Questions that matchers of arithmetic ask: constant operands in any order, products as lists of factors, means of the last axis."""

import math
from collections.abc import Callable

import onnx_ir as ir

from edgebuild.graph.symbolic import ONE, sizes_of
from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op

_TOLERANCE = 1e-6
"""Relative: constants that were rounded to float32 once or twice are the same, 1.41421 for the root of 2 is not."""


def near(value: float, wanted: float) -> bool:
    """Whether a constant is that number, up to its rounding."""
    return math.isclose(value, wanted, rel_tol=_TOLERANCE)


def scalar(value: ir.Value | None) -> float | None:
    """A floating-point constant of one element and at most one axis."""
    array = constant_array(value, max_elements=1)
    if array is None or array.size != 1 or array.ndim > 1 or array.dtype.kind != "f":
        return None
    return float(array.item())


def maker(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes a value, if it is one of these operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and is_op(node, *op_types) else None


def with_scalar(node: ir.Node, *, ordered: bool = False) -> tuple[ir.Value, float] | None:
    """The operand and the constant of a binary operator; ``ordered``: only the second may be the constant."""
    for index in (1,) if ordered else (1, 0):
        number, other = scalar(input_at(node, index)), input_at(node, 1 - index)
        if number is not None and other is not None:
            return other, number
    return None


def factors(value: ir.Value, inner: Callable[[ir.Value], bool]) -> tuple[list[ir.Value], float, list[ir.Node]] | None:
    """A product taken apart: its factors, what its constants multiply to, and its nodes.

    Args:
        value: What Mul (or Div by a constant) makes.
        inner: Whether a value inside may be taken apart further: nobody else may read it.
    """
    leaves: list[ir.Value] = []
    nodes: list[ir.Node] = []
    number, todo = 1.0, [value]
    while todo:
        current = todo.pop()
        node = maker(current, "Mul", "Div")
        constant = scalar(current)
        if constant is not None:
            number *= constant
            continue
        if node is None or (current is not value and not inner(current)) or len(nodes) > 8:
            leaves.append(current)
            continue
        if node.op_type == "Div":
            divided = with_scalar(node, ordered=True)
            if divided is None or divided[1] == 0:
                leaves.append(current)
                continue
            number /= divided[1]
            todo.append(divided[0])
        else:
            operands = [operand for operand in node.inputs if operand is not None]
            todo.extend(reversed(operands))
        nodes.append(node)
    return (leaves, number, nodes) if nodes else None


def mean_of(value: ir.Value | None) -> ir.Value | None:
    """``x`` where a value is the mean of x along its last axis, which is kept with size 1."""
    node = maker(value, "ReduceMean", "Reshape", "Unsqueeze")
    if node is None or value is None:
        return None
    if not is_op(node, "ReduceMean"):
        kept, node = value, maker(node.inputs[0], "ReduceMean")
        sizes = sizes_of(node.inputs[0]) if node is not None else None
        if node is None or sizes is None or sizes_of(kept) != [*sizes[:-1], ONE]:
            return None
        if int_attribute(node, "keepdims", 1) != 0 or sizes_of(node.outputs[0]) != sizes[:-1]:
            return None
    elif int_attribute(node, "keepdims", 1) != 1:
        return None
    return node.inputs[0] if _along_last(node) else None


def _along_last(node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) < 1:
        return False
    attribute = node.attributes.get("axes")  # before opset 18
    if attribute is not None:
        axes = [] if attribute.is_ref() else list(attribute.as_ints())
    else:
        array = constant_array(input_at(node, 1), max_elements=8)
        axes = [] if array is None else [int(axis) for axis in array.ravel()]
    return len(axes) == 1 and axes[0] in (-1, len(source.shape) - 1)


def square_of(value: ir.Value | None) -> ir.Value | None:
    """``x`` where a value is ``x * x`` or ``x ** 2``."""
    node = maker(value, "Mul", "Pow")
    if node is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    return node.inputs[0] if scalar(input_at(node, 1)) == 2.0 else None


def root_of(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """``v`` and ``epsilon`` where a value is the root of ``v + epsilon``, with epsilon >= 0."""
    node = maker(value, "Sqrt", "Pow")
    if node is None or (node.op_type == "Pow" and scalar(input_at(node, 1)) != 0.5):
        return None
    add = maker(node.inputs[0], "Add")
    found = with_scalar(add) if add is not None else None
    return found if found is not None and 0 <= found[1] < math.inf else None


def divided_by_root(value: ir.Value) -> tuple[ir.Value, ir.Value, float] | None:
    """``x``, ``v`` and ``epsilon`` where a value is ``x / sqrt(v + epsilon)``, by a quotient or by a product."""
    node = maker(value, "Div", "Mul")
    if node is None:
        return None
    if node.op_type == "Div":
        found = root_of(node.inputs[1])
        return (node.inputs[0], *found) if found is not None and node.inputs[0] is not None else None
    for index in (0, 1):
        inverse, x = maker(node.inputs[index], "Reciprocal", "Div", "Pow"), node.inputs[1 - index]
        if inverse is None or x is None:
            continue
        if inverse.op_type == "Pow":  # (v + epsilon) ** -0.5
            add = maker(inverse.inputs[0], "Add") if scalar(input_at(inverse, 1)) == -0.5 else None
            found = with_scalar(add) if add is not None else None
            found = found if found is not None and 0 <= found[1] < math.inf else None
        elif inverse.op_type == "Reciprocal":
            found = root_of(inverse.inputs[0])
        else:
            found = root_of(inverse.inputs[1]) if scalar(inverse.inputs[0]) == 1.0 else None
        if found is not None:
            return (x, *found)
    return None


def last_axis_constant(node: ir.Node, value: ir.Value, size: int) -> ir.Value | None:
    """The constant of a product or sum with ``value``, if it has one element for each place of the last axis."""
    others = [operand for operand in node.inputs if operand is not value]
    array = constant_array(others[0]) if len(others) == 1 else None
    if array is None or array.size != size or array.shape[-1:] != (size,):
        return None
    return others[0] if value.shape is not None and array.ndim <= len(value.shape) else None


def nothing_else_reads(nodes: list[ir.Node], last: ir.Value) -> bool:
    """Whether the outputs of a pattern's nodes, but the last one, are read inside of it only and are no outputs of a graph."""
    inside = {id(node) for node in nodes}
    return all(
        output is last or (not output.is_graph_output() and all(id(use.node) in inside for use in output.uses()))
        for node in nodes
        for output in node.outputs
    )


def is_scaled_product(value: ir.Value | None) -> bool:
    """Whether a value is a MatMul's result, multiplied or divided by up to two constants: scores of an attention."""
    node = value.producer() if value is not None else None
    for _ in range(2):
        if node is not None and is_op(node, "Mul", "Div"):
            inner = node.inputs[0]
            if constant_array(inner, max_elements=1) is not None:
                inner = node.inputs[1]
            node = inner.producer() if inner is not None else None
    return node is not None and is_op(node, "MatMul")
