"""Gives Reshape a constant target where it computes one from its own input's axes, and merges Reshapes.

Takes: a target put together from Shape, Gather, Slice, Concat and numbers, where every axis of the result is a number, or the axis of
the input at the same place (0 in the target), or the only one left over beside numbers (-1); Reshape of a Reshape that nothing else
reads; a Reshape that changes nothing (target 0 or the input's own size at every axis). Fills in sizes of the output that follow.

Refuses: results of size 0; a second left-over axis; a left-over axis beside symbolic ones, which ONNX Runtime can't resolve if
one of them is 0; outputs of a graph as far as their shapes go, which the signature has.

Numbers: none change.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.symbolic import Size, constant_target, integers, reshaped_sizes, sizes_of
from edgebuild.graph.values import (
    add_initializer,
    bypass,
    constant_array,
    input_at,
    int_attribute,
    is_op,
    remove_node,
)

_MAX_RANK = 16


class ReshapeTargets(GraphPass):
    """Constant targets for Reshape, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "reshape-targets"

    def rewrite(self, model: ir.Model) -> int:
        changed = 0
        for node in list(model.graph.all_nodes()):
            if is_op(node, "Expand") and node.inputs[0] is not None and _expands_nothing(node):
                if bypass(node.outputs[0], node.inputs[0]):
                    remove_node(node)
                    changed += 1
                continue
            if not is_op(node, "Reshape") or len(node.inputs) != 2 or node.inputs[0] is None:
                continue
            sizes = reshaped_sizes(node)
            if sizes is not None:
                changed += _refine(node.outputs[0], sizes)
                changed += _merge(model.graph, node, sizes)
                if _unchanged(node) and bypass(node.outputs[0], node.inputs[0]):
                    remove_node(node)
                    changed += 1
                    continue
                changed += _fix(model.graph, node, sizes)
        return changed


def _expands_nothing(node: ir.Node) -> bool:
    before, target = sizes_of(node.inputs[0]), integers(input_at(node, 1))
    return before is not None and before == target


def _refine(value: ir.Value, sizes: list[Size]) -> int:
    if value.is_graph_output():
        return 0
    dims: list[int | str | None] = []
    known = value.shape
    if known is not None and len(known) != len(sizes):
        return 0
    for axis, size in enumerate(sizes):
        old = None if known is None else known[axis]
        if isinstance(old, int):
            dims.append(old)
        elif size.number is not None and size.number > 0:
            dims.append(size.number)
        elif isinstance(old, ir.SymbolicDim) and old.value:
            dims.append(old.value)
        else:
            dims.append(size.name)
    shape = ir.Shape(dims)
    if known is not None and shape == known:
        return 0
    value.shape = shape
    return 1


def _merge(main: ir.Graph, node: ir.Node, sizes: list[Size]) -> int:
    """Let a Reshape read what the Reshape before it reads, with a target that says the same from there."""
    source = node.inputs[0]
    first = source.producer() if source is not None else None
    if source is None or first is None or not is_op(first, "Reshape") or first.graph is not node.graph:
        return 0
    if len(source.uses()) != 1 or source.is_graph_output() or first.inputs[0] is None:
        return 0
    before = sizes_of(first.inputs[0])
    target = None if before is None else constant_target(before, sizes)
    if target is None:
        return 0
    node.replace_input_with(0, first.inputs[0])
    _set_target(main, node, target)
    remove_node(first)
    return 1


def _unchanged(node: ir.Node) -> bool:
    before, target = sizes_of(node.inputs[0]), constant_array(input_at(node, 1), max_elements=_MAX_RANK)
    if before is None or target is None or len(before) != target.size or int_attribute(node, "allowzero", 0) != 0:
        return False
    return all(int(want) == 0 or size.number == int(want) for size, want in zip(before, target.ravel(), strict=True))


def _fix(main: ir.Graph, node: ir.Node, sizes: list[Size]) -> int:
    before = sizes_of(node.inputs[0])
    target = None if before is None else constant_target(before, sizes)
    if target is None:
        return 0
    old = constant_array(input_at(node, 1), max_elements=_MAX_RANK)
    # One that is constant already is made anew only where it leaves a size open that is known.
    if old is not None and (-1 not in old.ravel() or -1 in target):
        return 0
    _set_target(main, node, target)
    return 1


def _set_target(main: ir.Graph, node: ir.Node, target: list[int]) -> None:
    stem = f"{node.outputs[0].name or 'reshape'}.target"
    node.replace_input_with(1, add_initializer(main, stem, np.array(target, dtype=np.int64), ir.DataType.INT64))
    if "allowzero" in node.attributes:
        del node.attributes["allowzero"]
