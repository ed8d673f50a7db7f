"""Removes what no output depends on.

Takes: nodes none of whose outputs is read (in any graph or body); initialisers that nobody reads; optional outputs that
nobody reads; trailing inputs that are left out.

Refuses: initialisers that are also inputs or outputs of the graph; nodes without outputs (a custom operator may act
by side effect); optional outputs of BatchNormalization, whose number selects training before opset 14.

Numbers: none change.
"""

import onnx
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.invariants import subgraphs
from edgebuild.graph.values import is_op, opset_of


class DeadCodeElimination(GraphPass):
    """Removes unread nodes, initialisers and optional outputs from the graph and all bodies."""

    @property
    def name(self) -> str:
        return "dead-code-elimination"

    def rewrite(self, model: ir.Model) -> int:
        return _sweep(model.graph, opset_of(model))


def _sweep(graph: ir.Graph, opset: int) -> int:
    removed = 0
    for node in list(reversed(graph)):
        if node.outputs and not any(output.uses() or output.is_graph_output() for output in node.outputs):
            _release(node)
            graph.remove(node, safe=True)
            removed += 1
            continue
        removed += _trim(node, opset)
        for body in subgraphs(node):
            removed += _sweep(body, opset)
    for name, value in list(graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del graph.initializers[name]
            removed += 1
    return removed


def _release(node: ir.Node) -> None:
    """Let go of the outer values that a dead node's bodies read, else what makes them would live on."""
    for body in subgraphs(node):
        for inner in list(body):
            _release(inner)
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)


def _trim(node: ir.Node, opset: int) -> int:
    trimmed = 0
    used_inputs = len(node.inputs)
    while used_inputs and node.inputs[used_inputs - 1] is None:
        used_inputs -= 1
    if used_inputs < len(node.inputs):
        node.resize_inputs(used_inputs)
        trimmed += 1
    if len(node.outputs) < 2 or not is_op(node, node.op_type) or node.op_type == "BatchNormalization":
        return trimmed
    try:
        formal = onnx.defs.get_schema(node.op_type, opset, "").outputs
    except onnx.defs.SchemaError:
        return trimmed
    options = [output.option for output in formal]
    if onnx.defs.OpSchema.FormalParameterOption.Variadic in options:
        return trimmed
    for output, option in zip(node.outputs, options, strict=False):
        unread = not output.uses() and not output.is_graph_output()
        if unread and output.name and option == onnx.defs.OpSchema.FormalParameterOption.Optional:
            output.name = ""
            output.type, output.shape = None, None
            trimmed += 1
    used = len(node.outputs)
    while used > 1 and not node.outputs[used - 1].name and not node.outputs[used - 1].uses():
        used -= 1
    if used < len(node.outputs):
        node.resize_outputs(used)
        trimmed = max(trimmed, 1)
    return trimmed
