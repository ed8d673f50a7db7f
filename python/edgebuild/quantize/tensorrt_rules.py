"""Where Q/DQ have to lie for TensorRT, which moves and fuses them by rules of its own: they come after ``insert``, which places them for ONNX Runtime.

ONNX Runtime has an integer kernel for each operator and wants Q/DQ around every one. TensorRT wants them at the data and weights of
convolutions and products, and takes what follows into their kernels in float: Q/DQ in between would cut a kernel in two.

1. Biases are float: TensorRT quantises none, and reads no integer ones.
2. Nothing inside a kernel (see ``tensorrt_fusions``) carries Q/DQ: not between a convolution and its activation, nor between it and
   the sum with a residual.
3. The residual of such a sum carries them exactly where the sum's result does: its type decides that of the kernel's output.
4. What no integer kernel reads carries none: results of convolutions that go to float operators or out of the graph.
5. All inputs of a Concat have the scale of its output, so that joining them computes nothing; unless one of them would lose more
   than 3 of its 8 bits.

Zero points are 0, scales of activations are one for each tensor, those of weights one for each output channel: the target's scheme says that.

Numbers: rules 1 to 4 take roundings away. Rule 5 rounds to steps that are up to 8 times as large.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebuild.graph.values import bypass, constant_array, constant_tensor, int_attribute, is_op, remove_node
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.region import MOVING
from edgebuild.quantize.tensorrt_fusions import Kernel, find_kernels, has_integer_weight, is_pointwise, is_weighted

_WIDEST = 8.0
"""Of scales that one Concat joins: what the smaller of them loses is 3 bits."""

_JOINING = ("AveragePool", "Concat", "GlobalAveragePool")
"""Operators beside the moving and pointwise ones that compute on integers where both sides carry Q/DQ."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """A value's Q and DQ."""

    quantize: ir.Node
    dequantize: ir.Node

    @property
    def value(self) -> ir.Value:
        value = self.quantize.inputs[0]
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        return self.dequantize.outputs[0]

    @property
    def scale(self) -> ir.Value:
        scale = self.quantize.inputs[1]
        assert scale is not None
        return scale


def place_for_tensorrt(model: ir.Model) -> None:
    """Rewrites a graph that ``insert`` quantised, in place. What is dead is left for dead-code elimination."""
    graph = model.graph
    _float_biases(GraphEditor(graph), graph)
    kernels = find_kernels(graph)
    pairs = _pairs(graph)
    kept = _wanted(graph, pairs, kernels)
    for pair in pairs:
        if pair not in kept:
            _take_away(pair)
    _type_residuals(kernels, kept)
    _join_scales(graph, kept)


def _float_biases(editor: GraphEditor, graph: ir.Graph) -> None:
    for node in list(graph):
        if not is_op(node, "DequantizeLinear"):
            continue
        tensor = constant_tensor(node.inputs[0])
        scale = constant_array(node.inputs[1])
        if tensor is None or tensor.dtype != ir.DataType.INT32 or scale is None:
            continue
        integers = np.asarray(tensor.numpy()).astype(np.float64)
        if scale.ndim == 1 and integers.ndim > 1:
            axis = int_attribute(node, "axis", 1) or 0
            scale = scale.reshape([-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)])
        result = node.outputs[0]
        values = np.asarray(integers * scale.astype(np.float64), np.float32)
        bias = editor.initializer((result.name or "bias").removesuffix("_dequantized"), values, ir.DataType.FLOAT)
        ir.convenience.replace_all_uses_with(result, bias)
        remove_node(node)


def _pairs(graph: ir.Graph) -> list[_Pair]:
    """In the order of execution; Q that several read, or a constant's, are none."""
    found = []
    for node in graph:
        if not is_op(node, "QuantizeLinear") or constant_tensor(node.inputs[0]) is not None:
            continue
        uses = list(node.outputs[0].uses())
        if len(uses) == 1 and is_op(uses[0].node, "DequantizeLinear") and not node.outputs[0].is_graph_output():
            found.append(_Pair(quantize=node, dequantize=uses[0].node))
    return found


def _wanted(graph: ir.Graph, pairs: list[_Pair], kernels: Mapping[ir.Node, Kernel]) -> set[_Pair]:
    """The pairs that stay: from the last to the first, because whether a sum or a pool is integer depends on who reads it."""
    inside: dict[ir.Node, Kernel] = {node: kernel for kernel in kernels.values() for node in kernel.epilogue}
    kept: set[_Pair] = set()
    outputs: dict[ir.Value, _Pair] = {}  # value -> the pair behind it, if that stays
    for pair in reversed(pairs):
        maker = pair.value.producer()
        kernel = None if maker is None else kernels.get(maker) or inside.get(maker)
        if kernel is not None and pair.value is not kernel.output:
            continue  # rule 2
        if kernel is None and maker is not None and is_pointwise(maker) and _read_by_pointwise_only(pair, inside):
            continue  # the same for pointwise operators that no weighted one precedes
        if any(_wants(use.node, pair, inside, outputs) for use in pair.result.uses()):
            kept.add(pair)
            outputs[pair.value] = pair
    return kept


def _read_by_pointwise_only(pair: _Pair, inside: Mapping[ir.Node, Kernel]) -> bool:
    users = [use.node for use in (*pair.value.uses(), *pair.result.uses()) if use.node is not pair.quantize]
    return bool(users) and all(is_pointwise(user) and user not in inside for user in users)


def _wants(node: ir.Node, pair: _Pair, inside: Mapping[ir.Node, Kernel], outputs: Mapping[ir.Value, _Pair]) -> bool:
    """Whether a node that reads a pair computes on integers."""
    if is_weighted(node):
        return node.inputs[0] is pair.result and has_integer_weight(node)
    kernel = inside.get(node)
    if kernel is not None:  # rule 3
        return kernel.residual is pair.result and has_integer_weight(kernel.weighted) and kernel.output in outputs
    if node.op_type in MOVING or is_op(node, *_JOINING) or is_pointwise(node):
        return any(_integer(value, outputs) for value in node.outputs)
    return False


def _integer(value: ir.Value, outputs: Mapping[ir.Value, _Pair]) -> bool:
    """Whether a value becomes integers at once, or behind an activation that alone reads it."""
    if value in outputs:
        return True
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or not is_op(uses[0].node, "Relu", "Clip"):
        return False
    return _integer(uses[0].node.outputs[0], outputs)


def _take_away(pair: _Pair) -> None:
    value, result = pair.value, pair.result
    name = result.name or ""
    renamed = (value.name or "").startswith(f"{name}_exact")  # by insert, where all read the dequantised form
    if not bypass(result, value):
        return  # an input of the graph that goes out of it: Q/DQ are all that lies between
    remove_node(pair.dequantize)
    remove_node(pair.quantize)
    if renamed and not value.is_graph_output():
        value.name = name


def _type_residuals(kernels: Mapping[ir.Node, Kernel], kept: set[_Pair]) -> None:
    """Rule 3, where a residual that is integer for others is read in float, or the other way round."""
    by_value = {pair.value: pair for pair in kept}
    by_result = {pair.result: pair for pair in kept}
    for kernel in kernels.values():
        residual = kernel.residual
        add = next((node for node in kernel.epilogue if is_op(node, "Add") and residual in node.inputs), None)
        if residual is None or add is None:  # the second: its Q/DQ are gone, so it is read in float
            continue
        integer = kernel.output in by_value and has_integer_weight(kernel.weighted)
        if integer and residual in by_value:
            pair = by_value[residual]
            if pair.dequantize in set(_before(add)):
                _read(add, residual, pair.result)
        elif not integer and residual in by_result:
            value = by_result[residual].value
            # What an integer kernel gives exists as integers only; for the sum's sake it is not written twice.
            if value.is_graph_input() or len(value.uses()) > 1:
                _read(add, residual, value)


def _read(node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)


def _before(node: ir.Node) -> Iterator[ir.Node]:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for other in graph:
        if other is node:
            return
        yield other


def _join_scales(graph: ir.Graph, kept: set[_Pair]) -> None:
    """Rule 5. A scale is one initialiser for all values that have it by moving operators, so these follow."""
    by_value = {pair.value: pair for pair in kept}
    by_result = {pair.result: pair for pair in kept}
    groups = _Groups()
    for node in graph:
        if not is_op(node, "Concat"):
            continue
        pairs = [by_result.get(value) for value in node.inputs if value is not None]
        pairs.append(by_value.get(node.outputs[0]))
        scales = [pair.scale for pair in pairs if pair is not None]
        if len(scales) == len(pairs):
            groups.join(scales)
    for scales in groups.found():
        array = np.max([_number(scale) for scale in scales])
        for scale in scales:
            scale.const_value = ir.Tensor(np.asarray(array, np.float32), dtype=ir.DataType.FLOAT, name=scale.name)


def _number(scale: ir.Value) -> np.float32:
    array = constant_array(scale)
    assert array is not None  # insert made it
    return np.float32(array)


class _Groups:
    """Scales that are to be one: unions of what Concats join, none of them with more than ``_WIDEST`` between its ends."""

    def __init__(self) -> None:
        self._of: dict[ir.Value, list[ir.Value]] = {}

    def join(self, scales: list[ir.Value]) -> None:
        """Makes one of them and all that they are one with, if they are near enough."""
        whole: dict[ir.Value, None] = {}
        for scale in scales:
            whole.update(dict.fromkeys(self._of.get(scale, [scale])))
        numbers = [_number(scale) for scale in whole]
        if max(numbers) > _WIDEST * min(numbers):
            return
        group = list(whole)
        self._of.update(dict.fromkeys(group, group))

    def found(self) -> list[list[ir.Value]]:
        """The unions."""
        return list({id(group): group for group in self._of.values()}.values())
