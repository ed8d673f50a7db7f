"""Which operators TensorRT runs in one kernel with a weighted one, by the fusions that its documentation lists.

Read by the rules of Q/DQ placement (``tensorrt_rules``) and by what ``edgebuild explain`` predicts of a plan. Sources: "Layer Fusion
Catalog" and "Explicit Quantization" of NVIDIA's TensorRT documentation, and issues 1992, 2592 and 3205 of NVIDIA/TensorRT.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgebuild.graph.values import constant_tensor, input_at, is_op, static_dims

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

UNARY = frozenset(
    {
        "Abs", "Ceil", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg",
        "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
"""Pointwise operators of one tensor."""

BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub"})
"""Pointwise operators of two."""

_LONGEST = 16
"""Operators of one activation; the longest that exporters write, Gelu by its polynomial, has 8."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A weighted operator and what runs in its kernel.

    Args:
        weighted: The convolution or product.
        epilogue: What follows it there, in order: bias and scale, the sum with a residual, an activation.
        residual: What the sum adds, as the Add reads it; None: there is no sum.
        output: What leaves the kernel.
    """

    weighted: ir.Node
    epilogue: tuple[ir.Node, ...]
    residual: ir.Value | None
    output: ir.Value

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All of it."""
        return (self.weighted, *self.epilogue)


def is_weighted(node: ir.Node) -> bool:
    """Whether a node is a convolution or product with a constant weight, quantised or not."""
    return is_op(node, *WEIGHTED) and constant_tensor(origin(input_at(node, 1))) is not None


def has_integer_weight(node: ir.Node) -> bool:
    """Whether a weighted node's weight is dequantised: its data decide whether it computes on integers."""
    weight = input_at(node, 1)
    return is_weighted(node) and weight is not None and is_op(weight.producer(), "DequantizeLinear")


def origin(value: ir.Value | None) -> ir.Value | None:
    """The value before any Q and DQ that lie between it and a reader."""
    while value is not None and is_op(value.producer(), "QuantizeLinear", "DequantizeLinear"):
        value = value.producer().inputs[0]  # type: ignore[union-attr]
    return value


def readers(value: ir.Value, *, through: bool = True) -> Iterator[tuple[ir.Node, int]]:
    """Nodes that read a value, with the position of the input; ``through``: behind Q and DQ, not these themselves."""
    for use in value.uses():
        if through and is_op(use.node, "QuantizeLinear", "DequantizeLinear") and use.idx == 0:
            yield from readers(use.node.outputs[0])
        else:
            yield use.node, use.idx


def leaves(value: ir.Value) -> bool:
    """Whether a value, or what Q and DQ make of it, is an output of the graph."""
    if value.is_graph_output():
        return True
    return any(
        leaves(use.node.outputs[0])
        for use in value.uses()
        if is_op(use.node, "QuantizeLinear", "DequantizeLinear") and use.idx == 0
    )


def is_pointwise(node: ir.Node) -> bool:
    """Whether a node computes each element of its output from the same element of its inputs."""
    return is_op(node, *UNARY, *BINARY)


def find_kernels(graph: ir.Graph, *, through: bool = True) -> dict[ir.Node, Kernel]:
    """The kernel of each weighted node of the main graph, in the order of execution.

    Args:
        graph: The main graph.
        through: Whether Q and DQ are looked through, to find what could be one kernel without them; False: they end one.
    """
    return _Finder(graph, through=through).kernels()


class _Finder:
    def __init__(self, graph: ir.Graph, *, through: bool) -> None:
        self.order = {node: index for index, node in enumerate(graph)}
        self.through = through

    def kernels(self) -> dict[ir.Node, Kernel]:
        weighted = [node for node in self.order if is_weighted(node)]
        # Of two convolutions that one Add reads the later one takes it in: the other's result is there by then.
        adds: dict[ir.Node, ir.Node] = {}
        for node in weighted:
            _, end = self.linear(node)
            add = self.sum(end)
            if add is not None:
                adds[add] = node
        return {node: self.kernel(node, adds) for node in weighted}

    def kernel(self, node: ir.Node, adds: Mapping[ir.Node, ir.Node]) -> Kernel:
        """Of a weighted node; ``adds`` says for each sum who takes it in."""
        linear, end = self.linear(node)
        add = self.sum(end)
        if add is None or adds[add] is not node:
            epilogue, output = self.activation(end)
            return Kernel(weighted=node, epilogue=(*linear, *epilogue), residual=None, output=output)
        residual = next(value for value in add.inputs if origin(value) is not end)
        epilogue, output = self.activation(add.outputs[0])
        return Kernel(weighted=node, epilogue=(*linear, add, *epilogue), residual=residual, output=output)

    def linear(self, node: ir.Node) -> tuple[tuple[ir.Node, ...], ir.Value]:
        """Bias and scale behind a weighted node, which its weights or its epilogue take in, and what they give."""
        nodes: list[ir.Node] = []
        end = node.outputs[0]
        while (found := self.only_reader(end)) is not None:
            reader, index = found
            if not is_op(reader, "Add", "Mul", "Sub", "Div") or not _is_vector(reader.inputs[1 - index]):
                break
            if index == 1 and is_op(reader, "Sub", "Div"):
                break
            nodes.append(reader)
            end = reader.outputs[0]
        return tuple(nodes), end

    def only_reader(self, value: ir.Value) -> tuple[ir.Node, int] | None:
        """The node that alone reads a value, beside it in the graph; None: there is none, or several."""
        users = list(readers(value, through=self.through))
        if len(users) != 1 or leaves(value):
            return None
        return users[0] if users[0][0] in self.order else None

    def sum(self, end: ir.Value) -> ir.Node | None:
        """The Add of another tensor of the same shape that alone reads a value."""
        found = self.only_reader(end)
        if found is None or not is_op(found[0], "Add"):
            return None
        add, index = found
        other = origin(add.inputs[1 - index])
        if other is None or other is end or constant_tensor(other) is not None:
            return None
        if end.shape is not None and other.shape is not None and end.shape != other.shape:
            return None  # a sum with broadcasting is a kernel of its own
        return add

    def activation(self, start: ir.Value) -> tuple[tuple[ir.Node, ...], ir.Value]:
        """The pointwise nodes behind a value that depend on nothing else and whose last one alone is read outside of them."""
        inside: dict[ir.Node, None] = {}
        values = {start}
        found: tuple[tuple[ir.Node, ...], ir.Value] = ((), start)
        while len(inside) < _LONGEST:
            near = {node for value in values for node, _ in readers(value, through=self.through)} - inside.keys()
            ready = [
                node for node in near if node in self.order and is_pointwise(node) and self.depends_on(node, values)
            ]
            if not ready:
                break
            node = min(ready, key=self.order.__getitem__)
            inside[node] = None
            values.add(node.outputs[0])
            outside = {value for value in values if self.read_outside(value, inside)}
            if outside <= {node.outputs[0]}:
                found = (tuple(inside), node.outputs[0])
        return found

    def depends_on(self, node: ir.Node, values: set[ir.Value]) -> bool:
        """Whether a node reads nothing but these values and constants."""
        for value in node.inputs:
            start = origin(value)
            if start is None or _is_vector(start):
                continue
            if (start if self.through else value) not in values:
                return False
        return True

    def read_outside(self, value: ir.Value, inside: Collection[ir.Node]) -> bool:
        """Whether anybody but these nodes reads a value."""
        return leaves(value) or any(reader not in inside for reader, _ in readers(value, through=self.through))


def _is_vector(value: ir.Value | None) -> bool:
    """Whether a value is a constant with at most one axis that is longer than 1: one number for each channel, or one for all."""
    tensor = constant_tensor(origin(value))
    return tensor is not None and sum(size > 1 for size in static_dims(tensor)) <= 1
