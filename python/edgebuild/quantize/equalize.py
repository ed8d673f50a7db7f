"""Equalisation: gives the channels of an activation, which share one scale, ranges of one size.

Cross-layer equalisation (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019): where all
between two layers is positively homogeneous, channel j of what the first gives is divided by ``s_j`` and the weights that read it are multiplied
by it; in a residual net many layers share the factors. The function is the same but for rounding, and nothing is added to the graph.

The paper makes the ranges of two weights equal, each with one scale. Here weights have a scale for each output channel and activations have one, so
the factors are those of SmoothQuant (Xiao et al., ICML 2023), ``s_j = max|X_j|^a / max|W_j|^(1-a)``, and the strength ``a`` of each group of layers
is the one with the least expected noise. A depthwise convolution's weights don't care: there ``a = 1`` makes all channels of the activation
equally wide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.errors import InternalError
from edgebuild.quantize.channels import ChannelSlots, Slots, connected
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.statistics import ChannelStatistics

STRENGTHS = (0.5, 0.75, 1.0)
"""Tried for each group."""

_LIMIT = 2.0**10
"""Of a factor, both ways: a channel that was hardly ever seen has no range to speak of."""

_WORTH = 0.3
"""Expected noise after and before: what gains less stays as it is. The widest value of a channel is a rough measure of its range, and
in nets whose channels are alike (ResNet-50, a U-Net of seeded weights) factors of 0.5 to 2 that promise 2 dB cost 1 dB."""

Factors = Mapping[str, npt.NDArray[np.float64]]
_Array = npt.NDArray[np.float64]


def equalizable(graph: ir.Graph) -> dict[str, int]:
    """Axis of the channels, by name, of every activation whose channel statistics ``equalization_factors`` needs."""
    slots = ChannelSlots(graph)
    return {
        layer.data.name: layer.data_axis
        for layer, read in slots.consumers
        if layer.data.name is not None and slots.free[read].any()
    }


def equalization_factors(graph: ir.Graph, channels: Mapping[str, ChannelStatistics]) -> dict[str, _Array]:
    """Factors that make the noise of quantisation small.

    Args:
        graph: Float, optimised.
        channels: Statistics of activations by name, as ``equalizable`` asks for; layers without take part in nothing.

    Returns:
        ``s`` by the name of the layer whose output channels are divided by it, ``(M,)``; layers without need none.
    """
    slots = ChannelSlots(graph)
    users = [(layer, read) for layer, read in slots.consumers if layer.data.name in channels]
    known = {layer for layer, _ in users}
    free = slots.free.copy()
    for layer, read in slots.consumers:
        if layer not in known:
            free[read] = False
    factors = np.ones(slots.count)
    for group in connected([read for _, read in users]):
        members = [LayerNoise.of(*users[index], channels[users[index][0].data.name or ""]) for index in group]
        _choose(members, free, factors)
    # Four digits do, and keep the decisions short.
    rounded = np.array([float(f"{factor:.4g}") for factor in factors])
    return {layer.name: rounded[part] for layer, part in slots.producers if np.any(rounded[part] != 1)}


def equalize(model: ir.Model, factors: Factors) -> int:
    """Applies factors to the weights, in place.

    Args:
        model: The graph that they were found for.
        factors: See ``equalization_factors``.

    Returns:
        How many layers were changed.

    Raises:
        InternalError: They do not fit the graph, or would change what it computes.
    """
    slots = ChannelSlots(model.graph)
    unknown = sorted(set(factors) - {layer.name for layer, _ in slots.producers})
    if unknown:
        msg = f"the equalisation names layers that the graph has not: {', '.join(unknown[:3])}"
        raise InternalError(msg)
    by_slot: dict[int, float] = {}
    for layer, part in slots.producers:
        given = factors.get(layer.name, np.ones(len(part)))
        if len(given) != len(part):
            msg = f"the equalisation has {len(given)} factors for '{layer.name}', expected {len(part)}"
            raise InternalError(msg)
        for slot, factor, free in zip(part.tolist(), given, slots.free[part], strict=True):
            if by_slot.setdefault(slot, float(factor)) != float(factor) or not (free or factor == 1):
                msg = f"the equalisation's factors for '{layer.name}' would change what the graph computes"
                raise InternalError(msg)
    editor = GraphEditor(model.graph)
    outer = {layer.name: _of_slots(part, by_slot) for layer, part in slots.producers}
    inner = {layer.name: _of_slots(part, by_slot) for layer, part in slots.consumers}
    layers = {layer.name: layer for layer, _ in (*slots.producers, *slots.consumers)}
    return sum(_scale(editor, layer, outer.get(name), inner.get(name)) for name, layer in layers.items())


def _of_slots(slots: Slots, factors: Mapping[int, float]) -> _Array:
    return np.array([factors.get(int(slot), 1.0) for slot in slots])


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerNoise:
    """A layer that reads channels, in numbers, and the noise that 8 bits make in it.

    Args:
        slots: Of its input channels, ``(C,)``.
        low: Of each, 0 or below.
        high: Of each, 0 or above.
        power: Mean square of each.
        square: Sum of the squares of all weights that read a channel, ``(C,)``.
        largest: Largest magnitude of the weights between each output and each input channel of its group: ``(groups, M / groups, C / groups)``.
        taps: Weights between two channels.
    """

    slots: Slots
    low: _Array
    high: _Array
    power: _Array
    square: _Array
    largest: _Array
    taps: int

    @classmethod
    def of(cls, layer: Layer, slots: Slots, channels: ChannelStatistics) -> "LayerNoise":
        weight = layer.weight_array().astype(np.float64)
        if layer.kind == "matmul":
            weight = weight if layer.transposed else weight.T
        groups = layer.groups
        weight = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return cls(
            slots=slots,
            low=np.minimum(channels.low, 0),
            high=np.maximum(channels.high, 0),
            power=channels.mean_square,
            square=np.sum(weight**2, axis=(1, 3)).reshape(-1),
            largest=np.max(np.abs(weight), axis=3, initial=0.0),
            taps=weight.shape[3],
        )

    @property
    def rows(self) -> _Array:
        """Largest magnitude of the weights that read each channel, ``(C,)``."""
        return np.asarray(self.largest.max(axis=1, initial=0.0)).reshape(-1)

    def noise(self, factors: _Array) -> float:
        """Expected noise of 8-bit activations and weights over the output's power, with these factors of all slots."""
        s = factors[self.slots]
        signal = float(np.sum(self.square * self.power))
        if signal == 0:
            return 0.0
        step = (np.max(self.high / s) - np.min(self.low / s)) / 255
        activations = step**2 / 12 * np.sum(self.square * s**2)
        groups = self.largest.shape[0]
        steps = np.max(self.largest * s.reshape(groups, 1, -1), axis=2, initial=0.0) / 127
        weights = np.sum(steps**2 / 12 * np.sum((self.power / s**2).reshape(groups, -1), axis=1)[:, None]) * self.taps
        return float(activations + weights) / signal


def _choose(readers: Sequence[LayerNoise], free: npt.NDArray[np.bool_], factors: _Array) -> None:
    """Writes the factors of one group's slots, if any gain enough."""
    reach, rows = np.zeros(len(factors)), np.zeros(len(factors))
    for reader in readers:
        np.maximum.at(reach, reader.slots, reader.high - reader.low)
        np.maximum.at(rows, reader.slots, reader.rows)
    usable = free & (reach > 0) & (rows > 0) & np.isfinite(reach)
    if not usable.any():
        return
    limit = _WORTH * sum(reader.noise(factors) for reader in readers)
    best: _Array | None = None
    for strength in STRENGTHS:
        wanted = reach[usable] ** strength / rows[usable] ** (1 - strength)
        # Where a channel that must stay as it is shares the scale, the others are brought to its size.
        level = _level(readers, usable, wanted)
        trial = factors.copy()
        trial[usable] = np.clip(wanted / level, 1 / _LIMIT, _LIMIT)
        noise = sum(reader.noise(trial) for reader in readers)
        if noise < limit:
            best, limit = trial, noise
    if best is not None:
        factors[usable] = best[usable]


def _level(readers: Sequence[LayerNoise], usable: npt.NDArray[np.bool_], wanted: _Array) -> float:
    """What factors are divided by: a geometric mean of 1, or such that no scaled channel is wider than the widest that stays."""
    scaled = np.ones(len(usable))
    scaled[usable] = wanted
    staying = moving = 0.0
    for reader in readers:
        ranges, moves = (reader.high - reader.low) / scaled[reader.slots], usable[reader.slots]
        if not moves.all():
            staying = max(staying, float(np.max(ranges[~moves], initial=0.0)))
            moving = max(moving, float(np.max(ranges[moves], initial=0.0)))
    if staying > 0 and moving > 0:
        return staying / moving
    return float(np.exp(np.mean(np.log(wanted))))


def _scale(editor: GraphEditor, layer: Layer, outer: _Array | None, inner: _Array | None) -> int:
    """Divides a layer's output channels and multiplies its input channels; whether there was anything to do."""
    outer = None if outer is None or np.all(outer == 1) else outer
    inner = None if inner is None or np.all(inner == 1) else inner
    if outer is None and inner is None:
        return 0
    weight = layer.weight_array().astype(np.float64)
    if layer.kind == "matmul" and not layer.transposed:
        weight = weight.T
    shape = weight.shape
    groups = layer.groups
    weight = weight.reshape(groups, shape[0] // groups, shape[1], -1)
    if inner is not None:
        weight = weight * inner.reshape(groups, 1, -1, 1)
    if outer is not None:
        weight = weight / outer.reshape(groups, -1, 1, 1)
    weight = weight.reshape(shape)
    if layer.kind == "matmul" and not layer.transposed:
        weight = weight.T
    name = layer.weight.name or layer.name
    _replace(editor, layer.nodes[0], layer.weight, name, weight)
    bias = layer.bias_array()
    if outer is not None and bias is not None and layer.bias is not None:
        shape = () if layer.bias.shape is None else tuple(int(size) for size in layer.bias.shape.numpy())
        _replace(
            editor, layer.nodes[-1], layer.bias, layer.bias.name or f"{name}_bias", (bias / outer).reshape(shape or -1)
        )
    return 1


def _replace(editor: GraphEditor, node: ir.Node, old: ir.Value, name: str, array: _Array) -> None:
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if not np.isfinite(rounded).all():
        msg = f"the equalised '{name}' does not fit float32"
        raise InternalError(msg)
    new = editor.initializer(f"{name}_equalized", rounded, ir.DataType.FLOAT)
    for index, value in enumerate(node.inputs):
        if value is old:
            node.replace_input_with(index, new)
