"""Moves Transpose behind projections, where it meets another one or the attention that takes it in.

Takes: ``MatMul(Transpose(x), W)`` with constant ``W (K, N)`` and ``Add(Transpose(x), b)``, Sub, Mul, Div with a constant ``b`` of one axis
or one element, for a permutation that keeps the last axis last; nn.MultiheadAttention with ``batch_first`` brackets itself with such
transposes. A Transpose that moves axes of size 1 only becomes a Reshape.

Refuses: a Transpose that something else reads; constants with more axes; to make a Reshape where it takes sizes computed at run time.

Numbers: none change.
"""

import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import only_reader
from edgebuild.graph.symbolic import ONE, constant_target, sizes_of
from edgebuild.graph.values import constant_array, is_op, remove_node, supersede, unique_name


class TransposeSinking(GraphPass):
    """Sinks transposes of rows, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "transpose-sinking"

    def rewrite(self, model: ir.Model) -> int:
        moved = 0
        for node in list(model.graph.all_nodes()):
            if is_op(node, "Transpose") and _reshape(model.graph, node):
                moved += 1
                continue
            current: ir.Node | None = node
            while (
                current is not None
                and is_op(current, "Transpose")
                and (current := _sink(model.graph, current)) is not None
            ):
                moved += 1
        return moved


def _permutation(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("perm")
    return None if attribute is None or attribute.is_ref() else list(attribute.as_ints())


def _reshape(main: ir.Graph, transpose: ir.Node) -> bool:
    perm, sizes = _permutation(transpose), sizes_of(transpose.inputs[0])
    if perm is None or sizes is None or len(perm) != len(sizes) or perm == sorted(perm):
        return False
    full = [axis for axis in perm if sizes[axis] != ONE]
    target = constant_target(sizes, [sizes[axis] for axis in perm])
    if full != sorted(full) or target is None:
        return False
    writer, out = Writer(main, transpose), transpose.outputs[0]
    numbers = writer.integers(f"{out.name}.target", target)
    shape = [sizes[axis] for axis in perm]
    supersede(out, writer.node("Reshape", [transpose.inputs[0], numbers], like=out, sizes=shape))
    return True


def _sink(main: ir.Graph, transpose: ir.Node) -> ir.Node | None:
    """The Transpose behind its reader, None if it stays."""
    perm, moved, source = _permutation(transpose), transpose.outputs[0], transpose.inputs[0]
    reader = only_reader(moved)
    if perm is None or len(perm) < 2 or perm[-1] != len(perm) - 1 or perm == sorted(perm) or source is None:
        return None
    if reader is None or reader.graph is not transpose.graph or not _works_on_rows(reader, moved, len(perm)):
        return None
    out, graph = reader.outputs[0], transpose.graph
    if graph is None or len(reader.outputs) != 1:
        return None
    if any(use.node is reader for use in source.uses() if use.node is not transpose):
        return None
    # The reader's output takes the Transpose's place, and a new Transpose behind makes what it made.
    place = [value is moved for value in reader.inputs].index(True)
    reader.replace_input_with(place, source)
    after = ir.node("Transpose", [out], {"perm": perm})
    graph.insert_after(reader, after)
    result = after.outputs[0]
    result.type, result.shape = out.type, out.shape
    for use in list(out.uses()):
        if use.node is not after:
            use.node.replace_input_with(use.idx, result)
    if out.is_graph_output():
        name, places = out.name, [i for i, value in enumerate(graph.outputs) if value is out]
        for index in places:
            graph.outputs[index] = result
        out.name, result.name = unique_name(main, f"{name}.rows"), name
    shape = out.shape
    if shape is not None:
        dims = list(shape)
        out.shape = ir.Shape([dims[perm.index(axis)] for axis in range(len(perm))])
    remove_node(transpose)
    return after


def _works_on_rows(node: ir.Node, moved: ir.Value, rank: int) -> bool:
    if is_op(node, "MatMul"):
        weight = constant_array(node.inputs[1])
        return node.inputs[0] is moved and weight is not None and weight.ndim == 2
    if is_op(node, "Add", "Sub", "Mul", "Div"):
        others = [constant_array(value) for value in node.inputs if value is not moved]
        return len(others) == 1 and others[0] is not None and others[0].ndim <= 1
    return False
