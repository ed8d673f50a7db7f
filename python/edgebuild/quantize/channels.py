"""Which channels of a graph's values may be scaled together without changing what the graph computes.

Dividing channel j of what a layer gives by ``s_j > 0`` and multiplying the weights that read it by ``s_j`` changes nothing if all between
them is positively homogeneous: ``f(x / s) = f(x) / s``, as for Relu, pooling or a sum. A slot is a set of channels that must share a factor
for that: those of both sides of an Add, of what goes into a pooling and out of it. A slot is fixed, its factor 1, if one of its channels is the
graph's input or output, or meets an operator that is not homogeneous, e.g. Sigmoid.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op, static_shape
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.region import clip_bounds

Slots = npt.NDArray[np.int64]

_POOLING = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "GlobalLpPool")

_HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout")


class ChannelSlots:
    """The slots of every value of a graph that has channels.

    Args:
        graph: The main graph of an optimised float model.

    Attributes:
        producers: Layers whose output channels may be divided, with their slots, in the order of execution.
        consumers: Layers whose input channels may be multiplied, with the slots of those.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._slots: dict[ir.Value, Slots] = {}
        self._axes: dict[ir.Value, int] = {}  # where the channels lie
        self.producers: list[tuple[Layer, Slots]] = []
        self.consumers: list[tuple[Layer, Slots]] = []
        layers = {layer.nodes[-1]: layer for layer in find_layers(graph, smallest=1) if layer.kind != "recurrent"}
        inside = {node for layer in layers.values() for node in layer.nodes[:-1]}
        for node in graph:
            if node in inside:
                continue
            if node in layers:
                self._layer(layers[node])
            elif not self._through(node):
                self._stop(node)
        for value, slots in self._slots.items():
            if value.is_graph_output() or any(use.node.graph is not graph for use in value.uses()):
                self._fix(slots)
        roots = np.array([self._root(slot) for slot in range(len(self._parents))], np.int64)
        self._free = np.ones(len(roots), bool)
        self._free[roots[sorted(self._fixed)]] = False
        self.producers = [(layer, roots[slots]) for layer, slots in self.producers]
        self.consumers = [(layer, roots[slots]) for layer, slots in self.consumers]

    @property
    def count(self) -> int:
        """Slots are numbers below this one."""
        return len(self._free)

    @property
    def free(self) -> npt.NDArray[np.bool_]:
        """Which slots may have a factor other than 1, ``(count,)``."""
        return self._free

    def _layer(self, layer: Layer) -> None:
        data = self._slots.get(layer.data)
        if data is not None:
            axis = 1 if layer.kind == "conv" else _rank(layer.data) - 1
            if len(data) == _input_channels(layer) and self._axes[layer.data] == axis:
                self.consumers.append((layer, data))
            else:
                self._fix(data)
        axis = 1 if layer.kind == "conv" else _rank(layer.output) - 1
        if axis > 0:
            slots = self._new(_output_channels(layer))
            self._set(layer.output, slots, axis)
            self.producers.append((layer, slots))

    def _set(self, value: ir.Value, slots: Slots, axis: int) -> None:
        self._slots[value], self._axes[value] = slots, axis

    def _through(self, node: ir.Node) -> bool:
        """Whether a node keeps factors of channels; then what it gives has its slots."""
        if not any(value in self._slots for value in node.inputs if value is not None):
            return True
        if is_op(node, "Add", "Sub"):
            return self._sum(node)
        if is_op(node, "Concat"):
            return self._concat(node)
        if is_op(node, "Mul"):
            return self._gated(node)
        first = node.inputs[0]
        slots = self._slots.get(first) if first is not None else None
        others = [value for value in node.inputs[1:] if value is not None and value in self._slots]
        if node.op_type == "MultiHeadAttention" and node.domain == "com.microsoft":
            return self._attention(node)
        if slots is None or others:
            return False
        assert first is not None
        found = self._alone(node, slots, self._axes[first])
        if found is None:
            return False
        self._set(node.outputs[0], found, self._axes[first])
        return True

    def _alone(self, node: ir.Node, slots: Slots, axis: int) -> Slots | None:
        """The slots of what an operator on one value gives; None if it does not keep factors."""
        value = node.inputs[0]
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            return None
        if is_op(node, *_HOMOGENEOUS) or (is_op(node, "Clip") and clip_bounds(node) == (0.0, float("inf"))):
            return slots
        rank = _rank(value)
        if rank < 3 or axis != 1:
            return None  # what follows works on the places of images
        if is_op(node, *_POOLING) or (is_op(node, "Pad") and _pads_places_with_zeros(node)):
            return slots
        if is_op(node, "Resize") and _resizes_places(node):
            return slots
        if is_op(node, "ReduceMean", "ReduceMax", "ReduceSum") and _reduces_places(node, rank):
            return slots
        if is_op(node, "Flatten", "Squeeze", "Reshape") and _drops_places(node, len(slots)):
            return slots
        if is_op(node, "DepthToSpace"):
            return self._depth_to_space(node, slots)
        return None

    def _sum(self, node: ir.Node) -> bool:
        sides = [self._slots.get(value) if value is not None else None for value in node.inputs]
        ranks = {_rank(value) for value in node.inputs}
        a, b = sides
        if a is None or b is None or len(a) != len(b) or len(ranks) != 1:
            return False
        one, other = (self._axes[value] for value in node.inputs if value is not None)
        if one != other:
            return False
        self._join(a, b)
        self._set(node.outputs[0], a, one)
        return True

    def _concat(self, node: ir.Node) -> bool:
        axis, rank = int_attribute(node, "axis", 1), _rank(node.inputs[0])
        parts = [self._slots.get(value) if value is not None else None for value in node.inputs]
        axes = {self._axes[value] for value in node.inputs if value is not None and value in self._axes}
        if rank < 3 or axis not in (1, 1 - rank) or axes != {1}:
            return False
        sizes = [static_shape(value) for value in node.inputs]
        known: list[Slots] = []
        for part, value, size in zip(parts, node.inputs, sizes, strict=True):
            if part is None:  # channels that nobody scales
                dim = size[1] if size is not None else (value.shape[1] if value is not None and value.shape else None)
                if not isinstance(dim, int):
                    return False
                part = self._new(dim)
                self._fix(part)
            known.append(part)
        self._set(node.outputs[0], np.concatenate(known), 1)
        return True

    def _gated(self, node: ir.Node) -> bool:
        """A product with a gate, which has one number for each channel, or one for all, and keeps its own scale."""
        for index in (0, 1):
            data, gate = node.inputs[index], node.inputs[1 - index]
            if data is None or gate is None or self._axes.get(data) != 1 or _rank(data) < 3:
                continue
            if _rank(gate) != _rank(data) or any(size != 1 for size in list(gate.shape or ())[2:]):
                continue
            if gate in self._slots:
                self._fix(self._slots[gate])
            self._set(node.outputs[0], self._slots[data], 1)
            return True
        return False

    def _attention(self, node: ir.Node) -> bool:
        """The channels of an attention are those of its values; scores are not homogeneous."""
        values = input_at(node, 2)
        rest = [value for index, value in enumerate(node.inputs) if index != 2]
        if values is None or self._axes.get(values) != 2 or _rank(values) != 3 or values in rest:
            return False
        if input_at(node, 3) is not None:  # a bias for q, k and v
            return False
        for value in rest:
            if value is not None and value in self._slots:
                self._fix(self._slots[value])
        self._set(node.outputs[0], self._slots[values], 2)
        return not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])

    def _depth_to_space(self, node: ir.Node, slots: Slots) -> Slots | None:
        mode, size = node.attributes.get("mode"), int_attribute(node, "blocksize", 1)
        if size is None or len(slots) % (size * size) or (mode is not None and mode.is_ref()):
            return None
        crd = mode is not None and mode.as_string() == "CRD"
        squares = slots.reshape(-1, size * size) if crd else slots.reshape(size * size, -1).T
        for place in range(1, size * size):
            self._join(squares[:, 0], squares[:, place])
        return np.array(squares[:, 0])

    def _stop(self, node: ir.Node) -> None:
        for value in node.inputs:
            if value is not None and value in self._slots:
                self._fix(self._slots[value])

    def _new(self, count: int) -> Slots:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _fix(self, slots: Slots) -> None:
        self._fixed.update(int(slot) for slot in slots)

    def _join(self, a: Slots, b: Slots) -> None:
        for one, other in zip(a, b, strict=True):
            low, high = sorted((self._root(int(one)), self._root(int(other))))
            self._parents[high] = low

    def _root(self, slot: int) -> int:
        while self._parents[slot] != slot:
            self._parents[slot] = self._parents[self._parents[slot]]
            slot = self._parents[slot]
        return slot


def _rank(value: ir.Value | None) -> int:
    """Axes of a value; 0 if nobody knows."""
    return 0 if value is None or value.shape is None else len(value.shape)


def _input_channels(layer: Layer) -> int:
    shape = layer.weight_shape
    if layer.kind == "conv":
        return shape[1] * layer.groups
    return shape[1] if layer.transposed else shape[0]


def _output_channels(layer: Layer) -> int:
    return layer.weight_shape[layer.channel_axis]


def _pads_places_with_zeros(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    kind = "constant" if mode is None or mode.is_ref() else mode.as_string()
    if kind in ("reflect", "edge", "wrap"):
        fill: npt.NDArray[np.generic] = np.zeros(1)
    else:
        value = input_at(node, 2)
        found = constant_array(value, max_elements=1)
        if value is not None and found is None:
            return False
        fill = np.zeros(1) if found is None else found
    pads = constant_array(input_at(node, 1), max_elements=64)
    if pads is None or input_at(node, 3) is not None or fill.size != 1 or bool(np.any(fill != 0)):
        return False
    rank = pads.size // 2
    return all(int(pads[axis]) == 0 == int(pads[axis + rank]) for axis in (0, 1))


def _resizes_places(node: ir.Node) -> bool:
    before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    transform = node.attributes.get("coordinate_transformation_mode")
    if transform is not None and (transform.is_ref() or transform.as_string() == "tf_crop_and_resize"):
        return False
    mode = node.attributes.get("mode")
    if mode is not None and (mode.is_ref() or mode.as_string() == "cubic"):
        return False  # linear, but nothing says that the engine's is with every option
    scales = constant_array(input_at(node, 2), max_elements=8)
    if scales is not None and scales.size > 1:
        return bool(np.all(scales[:2] == 1))
    return before is not None and after is not None and before[:2] == after[:2]


def _reduces_places(node: ir.Node, rank: int) -> bool:
    attribute = node.attributes.get("axes")
    if attribute is not None:
        axes: Sequence[int] = [] if attribute.is_ref() else list(attribute.as_ints())
    else:
        array = constant_array(input_at(node, 1), max_elements=8)
        axes = [] if array is None else [int(axis) for axis in array.reshape(-1)]
    return bool(axes) and all(axis % rank >= 2 for axis in axes)


def _drops_places(node: ir.Node, channels: int) -> bool:
    """``(N, C, 1, 1)`` to ``(N, C)``."""
    before, after = node.inputs[0], node.outputs[0]
    if before is None or before.shape is None or after.shape is None or len(after.shape) != 2:
        return False
    places = list(before.shape)[2:]
    return before.shape[1] == channels == after.shape[1] and all(size == 1 for size in places)


def connected(values: Sequence[Slots]) -> Iterator[list[int]]:
    """Indices of values that share slots, directly or through others, in order."""
    owners: dict[int, int] = {}
    parents = list(range(len(values)))

    def root(index: int) -> int:
        while parents[index] != index:
            index = parents[index]
        return index

    for index, slots in enumerate(values):
        for slot in slots.tolist():
            other = owners.setdefault(slot, index)
            low, high = sorted((root(index), root(other)))
            parents[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(values)):
        groups.setdefault(root(index), []).append(index)
    yield from groups.values()
