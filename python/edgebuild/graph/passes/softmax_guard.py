"""Removes the guard that exporters write around the Softmax of attention where it can't matter.

torch writes ``Where(IsNaN(Softmax(s)), 0, Softmax(s))`` for scaled_dot_product_attention with a boolean mask: a row whose scores are all
-infinity would be NaN, and shall be 0.

Takes: the guard where some score of every row stays finite: scores without a mask (MatMul, times constants), with a mask that is finite
by how it is made (constants, Where between finite constants, casts of booleans and integers), a constant mask with a finite element in
every row, a causal mask. A guard that stays is taken over by the fused attention, behind which it costs less (see ``attention``).

Refuses: masks that come from outside or are computed otherwise; a Softmax along another axis, or with another reader; a constant other
than 0.

Numbers: the same wherever queries times keys are finite and below 1e31 in magnitude. Beyond, where the model is broken, NaN now stays
NaN, as in torch itself.
"""

import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.softmax import along_last_axis, guard_of, row_stays_finite
from edgebuild.graph.values import is_op, opset_of, supersede


class SoftmaxGuardRemoval(GraphPass):
    """Removes no-op guards around Softmax, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "softmax-guard"

    def rewrite(self, model: ir.Model) -> int:
        if opset_of(model) < 13:  # Softmax meant something else
            return 0
        removed = 0
        for node in list(model.graph.all_nodes()):
            guard = guard_of(node) if is_op(node, "Softmax") else None
            if guard is None or not along_last_axis(node) or not row_stays_finite(node.inputs[0]):
                continue
            remaining = guard.where.outputs[0]
            if remaining.is_graph_output():
                continue
            supersede(remaining, node.outputs[0])
            removed += 1
        return removed
