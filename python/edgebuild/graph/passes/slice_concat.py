"""Removes parts that are put together again.

Takes: a Slice that takes everything; Concat of all consecutive parts of one value, cut by Slice or Split along the same axis, in order; a
Concat among the operands of a Concat along the same axis, if nothing else reads it; a Split into one part.

Refuses: steps other than 1; starts, ends or axes that are not constant; parts that overlap, are missing or come in another order; an axis of
unknown size, but for a Slice from 0 to the largest integer.

Numbers: none change.
"""

import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import sizes_of
from edgebuild.graph.values import bypass, constant_array, input_at, int_attribute, is_op, remove_node

_MAX_AXES = 16
_ENDLESS = 1 << 31
"""Ends from here on mean "to the end": exporters write the largest integer of 32 or 64 bits."""


class SliceConcatCleanup(GraphPass):
    """Cleans up Slice, Split and Concat, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "slice-concat"

    def rewrite(self, model: ir.Model) -> int:
        changed = 0
        for node in list(model.graph.all_nodes()):
            if node.graph is None or not node.inputs or node.inputs[0] is None:
                continue
            if is_op(node, "Concat"):
                changed += _flatten(node)
                whole = _whole(node)
            elif is_op(node, "Slice"):
                whole = node.inputs[0] if _takes_everything(node) else None
            elif is_op(node, "Split") and len(node.outputs) == 1:
                whole = node.inputs[0]
            else:
                continue
            if whole is not None and bypass(node.outputs[0], whole):
                remove_node(node)
                changed += 1
        return changed


def _bounds(node: ir.Node) -> list[tuple[int, int, int]] | None:
    """Axis, start and end of a Slice of step 1 for each axis that it cuts, counted from the front; an end may be ``_ENDLESS``."""
    sizes = sizes_of(node.inputs[0])
    arrays = [constant_array(input_at(node, index), max_elements=_MAX_AXES) for index in (1, 2)]
    if sizes is None or len(node.inputs) < 3 or any(array is None for array in arrays):
        return None
    starts, ends = ([int(item) for item in array.ravel()] for array in arrays if array is not None)
    lists = []
    for index, default in ((3, list(range(len(starts)))), (4, [1] * len(starts))):
        array = constant_array(input_at(node, index), max_elements=_MAX_AXES)
        if input_at(node, index) is not None and array is None:
            return None
        lists.append(default if array is None else [int(item) for item in array.ravel()])
    axes, steps = lists
    if any(step != 1 for step in steps):
        return None
    bounds = []
    for axis, start, end in zip(axes, starts, ends, strict=True):
        place = axis % len(sizes)
        size = sizes[place].number
        if size is not None:
            start, end, _ = slice(start, end).indices(size)
        elif start != 0 or end < _ENDLESS:
            return None
        bounds.append((place, start, end))
    return bounds


def _takes_everything(node: ir.Node) -> bool:
    bounds, sizes = _bounds(node), sizes_of(node.inputs[0])
    if bounds is None or sizes is None:
        return False
    return all(start == 0 and (end >= _ENDLESS or end == sizes[place].number) for place, start, end in bounds)


def _flatten(node: ir.Node) -> int:
    """Read the operands of a Concat that only this one reads."""
    axis = _axis(node)
    inputs = list(node.inputs)
    flat: list[ir.Value | None] = []
    inner: list[ir.Node] = []
    for value in inputs:
        maker = value.producer() if value is not None else None
        mine = maker is not None and is_op(maker, "Concat") and maker.graph is node.graph and axis is not None
        if value is not None and maker is not None and mine and _axis(maker) == axis and only_reader(value) is node:
            flat.extend(maker.inputs)
            inner.append(maker)
        else:
            flat.append(value)
    if not inner:
        return 0
    node.resize_inputs(len(flat))
    for index, value in enumerate(flat):
        node.replace_input_with(index, value)
    for maker in inner:
        remove_node(maker)
    return len(inner)


def _axis(node: ir.Node) -> int | None:
    axis = int_attribute(node, "axis", 0)
    sizes = sizes_of(node.inputs[0])
    return None if axis is None or sizes is None else axis % len(sizes)


def _whole(concat: ir.Node) -> ir.Value | None:
    """The value whose consecutive parts a Concat puts together."""
    axis, first = _axis(concat), concat.inputs[0]
    maker = first.producer() if first is not None else None
    source = maker.inputs[0] if maker is not None and is_op(maker, "Slice", "Split") else None
    sizes = sizes_of(source)
    size = sizes[axis].number if sizes is not None and axis is not None and axis < len(sizes) else None
    if source is None or axis is None or size is None or len(concat.inputs) < 2:
        return None
    at = 0
    for value in concat.inputs:
        part = _part(value, source, axis)
        if part is None or part[0] != at:
            return None
        at = part[1]
    return source if at == size else None


def _part(value: ir.Value | None, source: ir.Value, axis: int) -> tuple[int, int] | None:
    """From where to where along the axis a value is a part of the source."""
    node = value.producer() if value is not None else None
    if value is None or node is None or not node.inputs or node.inputs[0] is not source:
        return None
    if is_op(node, "Slice"):
        bounds = _bounds(node)
        if bounds is None or len(bounds) != 1 or bounds[0][0] != axis or bounds[0][1] >= bounds[0][2]:
            return None
        return bounds[0][1], bounds[0][2]
    if not is_op(node, "Split") or _axis(node) != axis:
        return None
    at = 0
    for output in node.outputs:
        sizes = sizes_of(output)
        length = None if sizes is None else sizes[axis].number
        if length is None:
            return None
        if output is value:
            return at, at + length
        at += length
    return None
