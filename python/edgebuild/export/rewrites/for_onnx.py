"""TorchScript graphs made fit for torch.onnx: checks that only raise are settled, and recurrent cells are written out.

ONNX has no exceptions. PyTorch's own layers check their inputs with them (``GRUCell``: one or two dimensions), and torch.onnx fails on
some of these checks inside of a loop, where it does not know ranks. The sizes that such a check would refuse are
refused by the bundle's signature; that the samples pass them was seen when the original ran.
"""

from typing import Any

import torch

_RAISE = "prim::RaiseException"
_MOST_CALLS = 100
"""Depth of calls that is looked into; TorchScript has no recursion."""

_GRU_CELL = """
graph(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh):
  %y : Tensor = aten::gru_cell(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh)
  return (%y)"""

_GRU_CELL_WRITTEN_OUT = """
graph(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh):
  %one : int = prim::Constant[value=1]()
  %from_x : Tensor = aten::linear(%x, %w_ih, %b_ih)
  %from_h : Tensor = aten::linear(%h, %w_hh, %b_hh)
  %xr : Tensor, %xz : Tensor, %xn : Tensor = prim::ConstantChunk[chunks=3, dim=1](%from_x)
  %hr : Tensor, %hz : Tensor, %hn : Tensor = prim::ConstantChunk[chunks=3, dim=1](%from_h)
  %sr : Tensor = aten::add(%xr, %hr, %one)
  %r : Tensor = aten::sigmoid(%sr)
  %sz : Tensor = aten::add(%xz, %hz, %one)
  %z : Tensor = aten::sigmoid(%sz)
  %rhn : Tensor = aten::mul(%r, %hn)
  %sn : Tensor = aten::add(%xn, %rhn, %one)
  %n : Tensor = aten::tanh(%sn)
  %d : Tensor = aten::sub(%h, %n, %one)
  %zd : Tensor = aten::mul(%z, %d)
  %y : Tensor = aten::add(%n, %zd, %one)
  return (%y)"""
"""As the documentation of torch.nn.GRUCell has it: h' = (1 - z) * n + z * h = n + z * (h - n)."""


_RNN_CELL = """
graph(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh):
  %y : Tensor = aten::rnn_ACTIVATION_cell(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh)
  return (%y)"""

_RNN_CELL_WRITTEN_OUT = """
graph(%x, %h, %w_ih, %w_hh, %b_ih, %b_hh):
  %one : int = prim::Constant[value=1]()
  %from_x : Tensor = aten::linear(%x, %w_ih, %b_ih)
  %from_h : Tensor = aten::linear(%h, %w_hh, %b_hh)
  %sum : Tensor = aten::add(%from_x, %from_h, %one)
  %y : Tensor = aten::ACTIVATION(%sum)
  return (%y)"""


def fit_for_onnx(graph: Any) -> None:
    """Rewrites a module's graph in place: no function calls, no checks, no cells."""
    for _ in range(_MOST_CALLS):  # one pass inlines one level of what was loaded from a file
        if not (graph.findAllNodes("prim::CallMethod") or graph.findAllNodes("prim::CallFunction")):
            break
        torch._C._jit_pass_inline(graph)
    if _settle(graph, graph):
        torch._C._jit_pass_constant_propagation(graph)
        torch._C._jit_pass_peephole(graph, True)  # without those that take the traced sizes for the only ones
        torch._C._jit_pass_constant_propagation(graph)
        torch._C._jit_pass_dce(graph)
    torch._C._jit_pass_custom_pattern_based_rewrite_graph(_GRU_CELL, _GRU_CELL_WRITTEN_OUT, graph)
    for activation in ("tanh", "relu"):
        pattern, written_out = (text.replace("ACTIVATION", activation) for text in (_RNN_CELL, _RNN_CELL_WRITTEN_OUT))
        torch._C._jit_pass_custom_pattern_based_rewrite_graph(pattern, written_out, graph)


def _settle(graph: Any, block: Any) -> int:
    """Gives every ``if`` with a branch that raises the condition of the other branch, and answers what asks whether a tensor is one.

    Returns:
        How many of both there were.
    """
    settled = 0
    for node in list(block.nodes()):
        if node.kind() == "prim::isinstance" and _is_tensor(node):
            with graph.insert_point_guard(node):
                node.output().replaceAllUsesWith(graph.insertConstant(True))
            node.destroy()
            settled += 1
            continue
        blocks = list(node.blocks())
        for inner in blocks:
            settled += _settle(graph, inner)
        if node.kind() != "prim::If":
            continue
        raising = [any(inner.kind() == _RAISE for inner in branch.nodes()) for branch in blocks]
        if raising[0] != raising[1]:
            with graph.insert_point_guard(node):
                node.replaceInput(0, graph.insertConstant(raising[1]))
            settled += 1
    return settled


def _is_tensor(node: Any) -> bool:
    """Whether a type test is one that a value typed as a tensor passes."""
    return node.inputsAt(0).type().kind() == "TensorType" and "Tensor" in [str(kind) for kind in node.tys("types")]
