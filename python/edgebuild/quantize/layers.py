"""The layers of a graph that quantisation is about: where a constant weight meets an activation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.values import (
    constant_array,
    constant_tensor,
    float_attribute,
    input_at,
    int_attribute,
    is_op,
    static_dims,
    static_shape,
)

Kind = Literal["conv", "matmul", "recurrent"]

_SMALLEST_WEIGHT = 256
"""Elements below which a weight is no layer worth quantising: the quantisation of its input costs more than it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution, a matrix product with its bias, or an LSTM, with constant weights.

    Args:
        name: Name of its first node, unique in the graph.
        kind: "conv" (Conv), "matmul" (MatMul with the Add of its bias, or Gemm), "recurrent" (LSTM).
        nodes: What it consists of, in order: e.g. MatMul and Add.
        data: The activation that it reads.
        weight: The constant. A convolution's is ``(M, C / groups, ...)``, a product's ``(K, N)`` or, with ``transposed``, ``(N, K)``.
        bias: ``(M,)`` or ``(N,)``; None: it has none.
        output: What it gives, the bias added.
        transposed: Whether the weight of a product is ``(N, K)``.
    """

    name: str
    kind: Kind
    nodes: tuple[ir.Node, ...]
    data: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    output: ir.Value
    transposed: bool = False

    @property
    def channel_axis(self) -> int:
        """Axis of the weight that counts output channels."""
        return 1 if self.kind == "matmul" and not self.transposed else 0

    @property
    def data_axis(self) -> int:
        """Axis of the activation that the weight's input channels lie on; negative from the end."""
        return 1 if self.kind == "conv" else -1

    @property
    def groups(self) -> int:
        """Groups of input channels, each read by filters of its own; 1 for products."""
        return int_attribute(self.nodes[0], "group", 1) or 1 if self.kind == "conv" else 1

    @property
    def weight_size(self) -> int:
        """Elements of the weight."""
        tensor = constant_tensor(self.weight)
        return 0 if tensor is None else int(tensor.size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        tensor = constant_tensor(self.weight)
        return () if tensor is None else tuple(static_dims(tensor))

    def weight_array(self) -> npt.NDArray[np.float32]:
        """The weight, float32."""
        array = constant_array(self.weight)
        assert array is not None  # find_layers took no others
        return np.asarray(array, np.float32)

    def bias_array(self) -> npt.NDArray[np.float32] | None:
        """The bias, float32, flat."""
        array = constant_array(self.bias)
        return None if array is None else np.asarray(array, np.float32).reshape(-1)

    def multiplications(self) -> int | None:
        """Multiplications of one inference; None where the sizes are not known before it."""
        shape = static_shape(self.output)
        if shape is None or self.kind == "recurrent":
            return None
        weight = self.weight_array().shape
        per_output = math.prod(weight[1:]) if self.kind == "conv" else weight[1 if self.transposed else 0]
        return math.prod(shape) * int(per_output)


def find_layers(graph: ir.Graph, *, smallest: int = _SMALLEST_WEIGHT) -> tuple[Layer, ...]:
    """All layers of the main graph, in the order of execution; those inside bodies of If, Loop and Scan stay float.

    Args:
        graph: The main graph.
        smallest: Elements that a weight must have; by default what is worth quantising.
    """
    return tuple(_layers(graph, smallest))


def _layers(graph: ir.Graph, smallest: int) -> Iterator[Layer]:
    for node in graph:
        layer = None
        if is_op(node, "Conv"):
            layer = _conv(node)
        elif is_op(node, "MatMul"):
            layer = _matmul(node)
        elif is_op(node, "Gemm"):
            layer = _gemm(node)
        elif is_op(node, "LSTM"):
            layer = _lstm(node)
        if layer is not None and layer.weight_size >= smallest and constant_tensor(layer.data) is None:
            yield layer


def _float_constant(value: ir.Value | None, rank: int) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == rank


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or ""


def _conv(node: ir.Node) -> Layer | None:
    data, weight, bias = node.inputs[0], input_at(node, 1), input_at(node, 2)
    tensor = constant_tensor(weight)
    if data is None or weight is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) < 3:
        return None
    if bias is not None and not _float_constant(bias, 1):
        return None
    return Layer(
        name=_name(node), kind="conv", nodes=(node,), data=data, weight=weight, bias=bias, output=node.outputs[0]
    )


def _matmul(node: ir.Node) -> Layer | None:
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or not _float_constant(weight, 2):
        return None
    add, bias = _bias_add(node)
    return Layer(
        name=_name(node),
        kind="matmul",
        nodes=(node,) if add is None else (node, add),
        data=data,
        weight=weight,
        bias=bias,
        output=(add or node).outputs[0],
    )


def _bias_add(node: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    """The Add of a constant vector over the last axis that alone reads a MatMul, and the vector."""
    result = node.outputs[0]
    uses = list(result.uses())
    tensor = constant_tensor(node.inputs[1])
    if len(uses) != 1 or result.is_graph_output() or tensor is None or not is_op(uses[0].node, "Add"):
        return None, None
    add = uses[0].node
    other = add.inputs[1 - uses[0].idx]
    array = constant_tensor(other)
    if other is None or array is None or array.dtype != ir.DataType.FLOAT or add.graph is not node.graph:
        return None, None
    shape = [int(size) for size in array.shape.numpy()]
    columns = int(tensor.shape.numpy()[1])
    return (add, other) if shape == [columns] else (None, None)


def _gemm(node: ir.Node) -> Layer | None:
    data, weight, bias = node.inputs[0], node.inputs[1], input_at(node, 2)
    if data is None or weight is None or not _float_constant(weight, 2):
        return None
    if int_attribute(node, "transA", 0) != 0 or float_attribute(node, "alpha", 1.0) != 1.0:
        return None
    transposed = int_attribute(node, "transB", 0)
    if transposed is None:
        return None
    if bias is not None:
        tensor = constant_tensor(bias)
        shape = None if tensor is None else [int(size) for size in tensor.shape.numpy()]
        columns = int(constant_tensor(weight).shape.numpy()[0 if transposed else 1])  # type: ignore[union-attr]
        if (
            tensor is None
            or tensor.dtype != ir.DataType.FLOAT
            or shape not in ([columns], [1, columns])
            or float_attribute(node, "beta", 1.0) != 1.0
        ):
            return None
    return Layer(
        name=_name(node),
        kind="matmul",
        nodes=(node,),
        data=data,
        weight=weight,
        bias=bias,
        output=node.outputs[0],
        transposed=bool(transposed),
    )


def _lstm(node: ir.Node) -> Layer | None:
    data, weight, recurrence, bias = node.inputs[0], input_at(node, 1), input_at(node, 2), input_at(node, 3)
    if data is None or weight is None or not _float_constant(weight, 3) or not _float_constant(recurrence, 3):
        return None
    if int_attribute(node, "layout", 0) != 0 or int_attribute(node, "input_forget", 0) != 0:
        return None
    return Layer(
        name=_name(node), kind="recurrent", nodes=(node,), data=data, weight=weight, bias=bias, output=node.outputs[0]
    )
