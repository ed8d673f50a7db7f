"""The integer region: which nodes compute on integers, and which values therefore carry Q/DQ.

A backend fuses ``DequantizeLinear -> operator -> QuantizeLinear`` into an integer kernel. So a node is in the region if all
that it reads is quantised already and somebody in the region reads what it gives; a layer is in it because the plan says so.
An activation behind a node (Relu, Clip) is its epilogue: the quantised range does its work, and no Q/DQ goes between.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebuild.graph.values import constant_array, constant_tensor, input_at, is_op, static_shape
from edgebuild.quantize.layers import Layer

MOVING = frozenset(
    {
        "DepthToSpace",
        "Flatten",
        "MaxPool",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""Operators that move values or choose among them: what they give has the range of what they read."""

ARITHMETIC = frozenset({"Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid", "Softmax"})
"""Operators that have an integer kernel of their own."""


_GATE_RATIO = 16
"""Elements of a product for each element of its gate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Where a graph is integer.

    Args:
        nodes: All nodes that compute on integers, layers included.
        carried: Values that carry Q/DQ, in the order of execution.
        leaders: For a carried value that has the range of another, that other one.
        producers: Carried values that exist as integers only: their float readers read the dequantised one.
    """

    nodes: frozenset[ir.Node]
    carried: tuple[ir.Value, ...]
    leaders: Mapping[ir.Value, ir.Value]
    producers: frozenset[ir.Value]

    def leader(self, value: ir.Value) -> ir.Value:
        """The value whose range this one has; itself if it has its own."""
        while value in self.leaders:
            value = self.leaders[value]
        return value


def find_region(
    graph: ir.Graph,
    layers: Sequence[Layer],
    *,
    operators: Collection[str],
    float_outputs: bool,
    fused_activations: bool = True,
) -> Region:
    """The region around layers that are to be quantised statically.

    Args:
        graph: The main graph; bodies stay float.
        layers: "conv" and "matmul" layers with static ranges.
        operators: Types of ``MOVING`` and ``ARITHMETIC`` that may join.
        float_outputs: Whether products give float where nobody in the region reads them.
        fused_activations: Whether a range that begins at 0 may do the work of Relu and Clip.
    """
    ends = {id(layer.output): layer for layer in layers}
    layer_nodes = {node for layer in layers for node in layer.nodes}
    results: dict[ir.Node, ir.Value] = {}  # node in the region -> what it gives, behind its epilogue
    made: set[ir.Value] = set()
    for node in graph:
        if node in layer_nodes:
            layer = ends.get(id(node.outputs[0]))
            if layer is None:
                continue  # the MatMul of a MatMul and Add: its layer ends at the Add
            values = [layer.output]
        elif node.op_type in operators and is_op(node, node.op_type) and _may_join(node, made):
            values = [value for value in node.outputs if value.name]
        else:
            continue
        for value in values:
            end = _behind_epilogue(value) if fused_activations and node.op_type not in MOVING else value
            results[node] = end  # of a Split the last: all of them are looked up in `made`
            made.add(end)
    joined = _prune(graph, set(results), layer_nodes, results)
    return _region(graph, layers, joined, results, float_outputs=float_outputs)


def float_inputs(node: ir.Node) -> Iterator[ir.Value]:
    """The data that a node of ``MOVING`` or ``ARITHMETIC`` computes on, without shapes, axes and sizes."""
    count = len(node.inputs) if node.op_type in ("Add", "Mul", "Concat") else 1
    yield from (value for value in node.inputs[:count] if value is not None)


def _may_join(node: ir.Node, made: set[ir.Value]) -> bool:
    values = list(float_inputs(node))
    if not values or _needs_float(node) or not any(value in made for value in values):
        return False
    return all(value in made or (node.op_type == "Mul" and _is_gate(value, values)) for value in values)


def _is_gate(value: ir.Value, values: Sequence[ir.Value]) -> bool:
    """Whether a float value is small beside the other factor, so that quantising it costs nothing: squeeze-and-excite's gate."""
    sizes = [static_shape(other) for other in values]
    own = static_shape(value)
    if constant_tensor(value) is not None or own is None or any(size is None for size in sizes):
        return False
    return math.prod(own) * _GATE_RATIO <= max(math.prod(size) for size in sizes if size is not None)


def _needs_float(node: ir.Node) -> bool:
    """Whether this node's kind of its operator has no integer kernel."""
    if node.op_type == "MaxPool":
        return len(node.outputs) > 1
    if node.op_type == "Resize":
        mode = node.attributes.get("mode")
        kind = "nearest" if mode is None or mode.is_ref() else mode.as_string()
        return kind == "cubic" or input_at(node, 1) is not None
    return False


def _behind_epilogue(value: ir.Value) -> ir.Value:
    """The value behind a Relu or Clip that alone reads ``value``; itself if there is none."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].idx != 0:
        return value
    node = uses[0].node
    if node.graph is not (value.producer().graph if value.producer() else None):  # type: ignore[union-attr]
        return value
    if is_op(node, "Relu") or (is_op(node, "Clip") and clip_bounds(node) is not None):
        return node.outputs[0]
    return value


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Lower and upper bound of a Clip with constant bounds; None if they are not."""
    bounds = [float("-inf"), float("inf")]
    for index in (1, 2):
        value = input_at(node, index)
        if value is None:
            continue
        array = constant_array(value, max_elements=1)
        if array is None:
            return None
        bounds[index - 1] = float(array.reshape(-1)[0])
    return bounds[0], bounds[1]


def _prune(
    graph: ir.Graph, joined: set[ir.Node], layer_nodes: set[ir.Node], results: Mapping[ir.Node, ir.Value]
) -> set[ir.Node]:
    """Without the nodes whose results nobody in the region reads; layers stay."""
    inner = joined | layer_nodes
    for node in reversed(list(graph)):
        if node not in joined or node in layer_nodes:
            continue
        values = [results[node]] if len(node.outputs) == 1 else list(node.outputs)
        readers = [use.node for value in values for use in value.uses()]
        if not any(reader in inner for reader in readers):
            joined.discard(node)
            inner.discard(node)
    return joined


def _region(
    graph: ir.Graph,
    layers: Sequence[Layer],
    joined: set[ir.Node],
    results: Mapping[ir.Node, ir.Value],
    *,
    float_outputs: bool,
) -> Region:
    carried: dict[ir.Value, None] = {}
    leaders: dict[ir.Value, ir.Value] = {}
    producers: set[ir.Value] = set()
    by_end = {layer.nodes[-1]: layer for layer in layers}
    data = {layer.data for layer in layers}
    inputs = {value for node in joined if node not in by_end for value in float_inputs(node)}
    for node in graph:
        layer = by_end.get(node)
        if layer is None and node not in joined:
            continue
        for value in (layer.data,) if layer is not None else tuple(float_inputs(node)):
            carried.setdefault(value)
        gives = [results[node]] if layer is not None or len(node.outputs) == 1 else list(node.outputs)
        for value in gives:
            wanted = value in data or value in inputs
            if layer is not None and layer.kind == "matmul" and float_outputs and not wanted:
                continue
            carried.setdefault(value)
            if layer is None or layer.kind == "conv" or not float_outputs:
                producers.add(value)
            if node.op_type in MOVING and layer is None:
                leaders[value] = next(float_inputs(node))
    constants = {value for value in carried if constant_tensor(value) is not None}
    assert not constants, constants
    return Region(
        nodes=frozenset(joined | {node for layer in layers for node in layer.nodes}),
        carried=tuple(carried),
        leaders=leaders,
        producers=frozenset(producers),
    )
