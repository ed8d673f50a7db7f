"""What TensorRT will probably make of a variant's graph, predicted from the fusions that its documentation lists. Nothing here runs TensorRT.

The plan that a board builds is chosen there by measuring, so it may differ: ``trtexec --exportLayerInfo`` shows the real one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx
import onnx_ir as ir

from edgebuild.bundle.reader import Bundle
from edgebuild.graph.passes.shape_inference import ShapeInference
from edgebuild.graph.values import constant_tensor, is_op
from edgebuild.quantize.tensorrt_fusions import (
    find_kernels,
    has_integer_weight,
    is_pointwise,
    is_weighted,
    origin,
    readers,
)

_VIEWS = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that only rename what lies in memory."""

_INTEGER = (
    "AveragePool",
    "Concat",
    "DepthToSpace",
    "GlobalAveragePool",
    "MaxPool",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
)
_INTEGER_MOVES = (*_INTEGER, *_VIEWS, "Transpose")
"""Operators beside the weighted and pointwise ones that compute on integers where both sides carry Q/DQ."""

_ATTENTION = ("float16", "bfloat16", "int8")
"""Precisions for which TensorRT has fused attention."""


@dataclass(frozen=True, kw_only=True)
class PlannedKernel:
    """What will probably be one kernel.

    Args:
        operators: E.g. "Conv + Add + Relu".
        nodes: Their names, in the order of execution.
        precision: Of its inputs: "int8", or the type of its float values.
        output: Of its output.
    """

    operators: str
    nodes: tuple[str, ...]
    precision: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A Q, DQ or Cast that no kernel takes in: a pass over memory of its own.

    Args:
        operator: "QuantizeLinear", "DequantizeLinear" or "Cast".
        value: What is converted.
        source: Its type before, e.g. "float32".
        target: Its type behind, e.g. "int8".
        why: What reads or gives it.
    """

    operator: str
    value: str
    source: str
    target: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PredictedPlan:
    """A prediction.

    Args:
        variant: The variant's name.
        nodes: Of the model's graph, Q/DQ included.
        kernels: In the order of execution.
        views: Nodes that only rename what lies in memory.
        absorbed: Q and DQ that kernels take in, or that cancel each other.
        pairs: All Q and DQ.
        conversions: What is left of them, and casts.
    """

    variant: str
    nodes: int
    kernels: tuple[PlannedKernel, ...]
    views: int
    absorbed: int
    pairs: int
    conversions: tuple[Conversion, ...]

    @property
    def integer(self) -> int:
        """Kernels that compute on integers."""
        return sum(kernel.precision == "int8" for kernel in self.kernels)

    @property
    def floats(self) -> Mapping[str, int]:
        """Operators of kernels in float, by how often they come, the most frequent first; of a plan without integers nothing."""
        if not self.integer:
            return {}
        counted = Counter(kernel.operators for kernel in self.kernels if kernel.precision != "int8")
        return dict(counted.most_common())


def predict_plans(bundle: Bundle) -> tuple[PredictedPlan, ...]:
    """A prediction for each TensorRT variant of a bundle, in its order."""
    return tuple(
        predict_plan(variant.name, onnx.load_from_string(bundle.read(variant.model)))
        for variant in bundle.manifest.variants
        if variant.backend == "tensorrt"
    )


def predict_plan(variant: str, proto: onnx.ModelProto) -> PredictedPlan:
    """The prediction for a graph as TensorRT reads it."""
    model = ir.from_proto(proto)
    ShapeInference()(model)
    return _Prediction(model.graph).plan(variant)


class _Prediction:
    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.kernels = find_kernels(graph, through=False)
        self.group: dict[ir.Node, tuple[ir.Node, ...]] = {}
        for kernel in self.kernels.values():
            self.group.update(dict.fromkeys(kernel.nodes, kernel.nodes))
        # At the last of its nodes a kernel's epilogue is complete; attention first: its softmax is no kernel of its own.
        for nodes in (*self._attention(), *self._pointwise()):
            self.group.update(dict.fromkeys(nodes, nodes))

    def plan(self, variant: str) -> PredictedPlan:
        kernels = []
        views = 0
        seen: set[ir.Node] = set()
        for node in self.graph:
            if node in self.on_host or self._is_conversion(node) or node in seen:
                continue
            if is_op(node, *_VIEWS):
                views += 1
                continue
            nodes = self.group.get(node, (node,))
            seen.update(nodes)
            kernels.append(
                PlannedKernel(
                    operators=" + ".join(part.op_type for part in nodes),
                    nodes=tuple(part.name or part.outputs[0].name or "" for part in nodes),
                    precision="int8" if self._is_integer(node) else _type(nodes[-1].outputs[0]),
                    output="int8" if self._gives_integers(nodes[-1]) else _type(nodes[-1].outputs[0]),
                )
            )
        found = [conversion for node in self.graph if (conversion := self._conversion(node)) is not None]
        pairs = sum(1 for node in self.graph if self._quantizes(node))
        left = sum(conversion.operator != "Cast" for conversion in found)
        return PredictedPlan(
            variant=variant,
            nodes=len(self.graph),
            kernels=tuple(kernels),
            views=views,
            absorbed=pairs - left,
            pairs=pairs,
            conversions=tuple(found),
        )

    @cached_property
    def on_host(self) -> frozenset[ir.Node]:
        """Nodes that compute sizes, or constants: they are done when the plan is built or before a run."""
        found: set[ir.Node] = set()
        for node in self.graph:
            made = [value for value in node.inputs if value is not None and constant_tensor(value) is None]
            if is_op(node, "Shape", "Size") or all(value.producer() in found for value in made):
                found.add(node)
        return frozenset(found)

    @staticmethod
    def _is_conversion(node: ir.Node) -> bool:
        return is_op(node, "QuantizeLinear", "DequantizeLinear", "Cast")

    @staticmethod
    def _quantizes(node: ir.Node) -> bool:
        return is_op(node, "QuantizeLinear", "DequantizeLinear")

    def _attention(self) -> Iterable[tuple[ir.Node, ...]]:
        """MatMul, scale and mask, Softmax, MatMul of two activations: one kernel in half precision."""
        for softmax in self.graph:
            if not is_op(softmax, "Softmax") or _type(softmax.outputs[0]) not in _ATTENTION:
                continue
            before = self._back_to_product(softmax)
            users = list(readers(softmax.outputs[0]))
            if before is None or len(users) != 1:
                continue
            product, index = users[0]
            if self._is_product(product) and index == 0:
                yield (*before, softmax, product)

    def _back_to_product(self, softmax: ir.Node) -> tuple[ir.Node, ...] | None:
        nodes: list[ir.Node] = []
        at = origin(softmax.inputs[0])
        while at is not None and len(list(readers(at))) == 1:
            node = at.producer()
            if node is None or node in self.group:
                return None
            nodes.insert(0, node)
            if self._is_product(node):
                return tuple(nodes)
            if not is_op(node, "Add", "Div", "Mul", "Where"):
                return None
            at = origin(node.inputs[1 if is_op(node, "Where") else 0])
        return None

    @staticmethod
    def _is_product(node: ir.Node) -> bool:
        return is_op(node, "MatMul") and not is_weighted(node)

    def _pointwise(self) -> Iterable[tuple[ir.Node, ...]]:
        """Pointwise nodes in no other kernel, joined to those that alone read them."""
        free = [
            node for node in self.graph if is_pointwise(node) and node not in self.group and node not in self.on_host
        ]
        joined: dict[ir.Node, list[ir.Node]] = {node: [node] for node in free}
        for node in free:
            users = {use.node for use in node.outputs[0].uses()}
            if not users or node.outputs[0].is_graph_output() or not all(user in joined for user in users):
                continue
            whole = list(dict.fromkeys(part for user in (node, *users) for part in joined[user]))
            for part in whole:
                joined[part] = whole
        order = {node: index for index, node in enumerate(self.graph)}
        for nodes in {id(nodes): nodes for nodes in joined.values()}.values():
            yield tuple(sorted(nodes, key=order.__getitem__))

    def _data(self, node: ir.Node) -> list[ir.Value]:
        """What a kernel reads from outside, but for constants and sizes."""
        nodes = self.group.get(node, (node,))
        made = {value for part in nodes for value in part.outputs}
        found = []
        for part in nodes:
            for value in part.inputs[:1] if is_weighted(part) else part.inputs:
                start = origin(value)
                if value is None or start is None or start in made or constant_tensor(start) is not None:
                    continue
                if start.producer() in self.on_host and start.producer() is not None:
                    continue
                found.append(value)
        return found

    def _is_integer(self, node: ir.Node) -> bool:
        """Whether a kernel computes on integers."""
        nodes = self.group.get(node, (node,))
        if node in self.on_host:
            return False
        if is_weighted(nodes[0]):
            return has_integer_weight(nodes[0]) and _dequantized(nodes[0].inputs[0])
        if not all(is_op(part, *_INTEGER_MOVES) or is_pointwise(part) for part in nodes):
            return False
        data = self._data(node)
        return bool(data) and all(map(_dequantized, data)) and _all_quantized(nodes[-1].outputs)

    def _gives_integers(self, node: ir.Node) -> bool:
        return self._is_integer(node) and _all_quantized(node.outputs)

    def _conversion(self, node: ir.Node) -> Conversion | None:
        """A node that stays as a conversion; None: a kernel takes it in, or it is none."""
        if node in self.on_host or not self._is_conversion(node):
            return None
        value, result = node.inputs[0], node.outputs[0]
        assert value is not None
        if is_op(node, "QuantizeLinear"):
            maker = value.producer()
            if maker is not None and self._is_integer(maker) and _all_quantized(maker.outputs):
                return None
            why = "an input of the model" if maker is None else f"{maker.op_type} '{maker.name}' gives it in float"
        elif is_op(node, "DequantizeLinear"):
            users = [use.node for use in result.uses()]
            strangers = [user for user in users if not self._is_integer(user)]
            if users and not strangers and not result.is_graph_output():
                return None
            if constant_tensor(value) is not None:
                return None
            user = strangers[0] if strangers else None
            why = "an output of the model" if user is None else f"{user.op_type} '{user.name}' computes in float"
        else:
            why = "the model's own Cast"
        return Conversion(
            operator=node.op_type,
            value=(result if result.is_graph_output() else origin(value) or value).name or "",
            source=_type(value),
            target=_type(result),
            why=why,
        )


def _dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def _all_quantized(values: Iterable[ir.Value]) -> bool:
    """Whether everybody who reads these values reads them as integers."""
    return all(
        not value.is_graph_output()
        and bool(value.uses())
        and all(is_op(use.node, "QuantizeLinear") for use in value.uses())
        for value in values
    )


def _type(value: ir.Value) -> str:
    kinds = {"FLOAT": "float32", "DOUBLE": "float64", "UNDEFINED": "unknown"}
    name = "UNDEFINED" if value.dtype is None else value.dtype.name
    return kinds.get(name, name.lower())
