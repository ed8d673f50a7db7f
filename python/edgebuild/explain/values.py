"""Where the noise of a layer comes from: rounding and clipping of each value that carries integers, and of the weights.

Everything here is computed from distributions, nothing is run: it says how the contribution of a layer, which is
measured, divides among what the layer reads, what it gives and its weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.values import static_shape
from edgebuild.quantize.insert import Forms, static_region
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.parameters import quantization_parameters
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.region import MOVING, float_inputs
from edgebuild.quantize.statistics import TensorStatistics
from edgebuild.quantize.weights import quantize_weight, scales_for_bias
from edgebuild.targets.spec import QuantizationScheme

Array = npt.NDArray[np.float64]

_SEARCH_DEPTH = 12
"""Operators between a value and the layer that makes or reads it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedValue:
    """A value that is integers in the quantised graph.

    Args:
        name: In the graph.
        extent: (low, high) that its integers cover; None: that of each run.
        makers: Layers that it comes from.
        readers: Layers that read it, or what is made of it.
        axis: That its channels lie on.
    """

    name: str
    extent: tuple[float, float] | None
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    axis: int


@dataclass(frozen=True, kw_only=True)
class ValueNoise:
    """Noise over signal of one value as one layer sees it: each channel counts as much as its weights make it."""

    rounding: float
    clipping: float

    @property
    def total(self) -> float:
        return self.rounding + self.clipping


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightNoise:
    """Noise over signal of a layer's weights.

    Args:
        noise: Of all.
        bits_lost: log2 of how much coarser the coarsest channel's steps are because its bias must fit 32 bits; 0: not at all.
        channel_ratio: Largest over median magnitude of the output channels that share a scale; 1 with a scale each.
        peak: Largest over root mean square magnitude of one channel, the worst of all.
        input_ratio: Largest over median magnitude of the input channels, which always share a scale; 1 if there is one.
    """

    noise: float
    bits_lost: float
    channel_ratio: float
    peak: float
    input_ratio: float = 1.0


def quantized_values(model: ir.Model, plan: Plan, forms: Forms) -> tuple[QuantizedValue, ...]:
    """All values of a float graph that the plan makes integers, in the order of execution."""
    layers = {layer.name: layer for layer in find_layers(model.graph) if layer.name in plan.modes}
    region = static_region(model, plan, forms)
    found: dict[str, QuantizedValue] = {}
    for value in region.carried:
        leader = region.leader(value)
        name = leader.name or ""
        if name and name not in found:
            found[name] = QuantizedValue(
                name=name,
                extent=_extent(leader, plan),
                makers=nearest_makers(leader, layers),
                readers=_readers(leader, layers),
                axis=channel_axis(leader, layers),
            )
    for layer in layers.values():
        name = layer.data.name or ""
        if plan.modes[layer.name] == "dynamic" and name not in found:
            found[name] = QuantizedValue(
                name=name,
                extent=None,
                makers=nearest_makers(layer.data, layers),
                readers=tuple(
                    other.name
                    for other in layers.values()
                    if other.data is layer.data and plan.modes[other.name] == "dynamic"
                ),
                axis=channel_axis(layer.data, layers),
            )
    return tuple(found.values())


def channel_axis(value: ir.Value, layers: Mapping[str, Layer]) -> int:
    """Axis of the channels: as a layer that reads the value says, else the second of images and the last of anything else."""
    for layer in layers.values():
        if layer.data is value:
            return layer.data_axis
    shape = value.shape
    return 1 if shape is not None and len(shape) >= 4 else -1


def value_noise(
    statistics: TensorStatistics, extent: tuple[float, float] | None, scheme: QuantizationScheme, power: Array | None
) -> ValueNoise:
    """Expected noise over signal.

    Args:
        statistics: Of the value, with channels.
        extent: That its integers cover; None: what was seen.
        scheme: Whose integers.
        power: How much each channel counts, ``(channels,)``; None: all the same.
    """
    low, high = extent if extent is not None else (min(statistics.low, 0.0), max(statistics.high, 0.0))
    found = quantization_parameters(low, high, scheme.activation, symmetric=scheme.symmetric_activations)
    info = np.iinfo(np.dtype(scheme.activation))
    step = float(found.scale)
    bottom, top = (step * (int(end) - int(found.zero_point)) for end in (info.min, info.max))
    channels = statistics.channels
    square = np.array([_mean_square(statistics)]) if channels is None else channels.mean_square
    lows = np.array([statistics.low]) if channels is None else channels.low
    highs = np.array([statistics.high]) if channels is None else channels.high
    weight = np.ones_like(square) if power is None or power.shape != square.shape else power
    signal = float(np.sum(square * weight))
    if signal <= 0:
        return ValueNoise(rounding=0.0, clipping=0.0)
    rounding = np.minimum(step**2 / 12, square)
    clipped = _clipped(statistics, bottom, top) * len(square)
    beyond = np.maximum(highs - top, 0.0) ** 2 + np.maximum(bottom - lows, 0.0) ** 2
    share = beyond / beyond.sum() if beyond.sum() > 0 else np.full_like(square, 1 / len(square))
    return ValueNoise(
        rounding=float(np.sum(rounding * weight)) / signal, clipping=float(clipped * np.sum(share * weight)) / signal
    )


def input_power(layer: Layer, channels: int) -> Array | None:
    """How much each channel of what a layer reads counts: the sum of its squared weights, ``(channels,)``; None: unknown."""
    weight = layer.weight_array().astype(np.float64) ** 2
    if layer.kind == "matmul":
        power = weight.sum(axis=0 if layer.transposed else 1)
    elif layer.kind == "conv":
        per_filter = weight.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2)  # (M, C / groups)
        groups = max(1, channels // per_filter.shape[1])
        if per_filter.shape[0] % groups:
            return None
        power = per_filter.reshape(groups, -1, per_filter.shape[1]).sum(axis=1).reshape(-1)
    else:
        power = weight.sum(axis=(0, 1))
    return np.asarray(power) if power.shape == (channels,) else None


def weight_noise(
    layer: Layer, mode: Mode, scheme: QuantizationScheme, data: TensorStatistics | None, step: float | None
) -> WeightNoise:
    """Of a layer's weights, each input channel counting as much as there is signal on it.

    Args:
        layer: A convolution, product or LSTM.
        mode: How it is computed.
        scheme: Whose integers.
        data: Of what it reads, with channels.
        step: Of its input's integers, in which the bias is counted; None: the bias stays float.
    """
    weight, axis = layer.weight_array(), layer.channel_axis
    if layer.kind == "matmul" and layer.transposed:
        weight, axis = np.ascontiguousarray(weight.T), 1
    if layer.kind == "recurrent":
        weight, axis = weight.reshape(-1, weight.shape[-1]), 0
    bounds = None
    if mode == "static" and step is not None and layer.kind != "recurrent":
        bounds = scales_for_bias(layer.bias_array(), step)
        if bounds is not None and not scheme.per_channel:
            bounds = np.max(bounds, keepdims=True)
    found = quantize_weight(
        weight, axis, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range, smallest_scales=bounds
    )
    natural = quantize_weight(weight, axis, per_channel=scheme.per_channel, reduce_range=scheme.reduce_range)
    power = _signal(layer, weight, data)
    exact = weight.astype(np.float64)
    noise = float(np.sum((found.dequantized().astype(np.float64) - exact) ** 2 * power))
    signal = float(np.sum(exact**2 * power))
    magnitude = np.moveaxis(np.abs(exact), axis, 0).reshape(exact.shape[axis], -1)
    largest = magnitude.max(axis=1)
    effective = np.sqrt(np.mean(magnitude**2, axis=1))
    seen = effective > 0
    ratio = float(largest.max() / max(float(np.median(largest)), 1e-30)) if not scheme.per_channel else 1.0
    return WeightNoise(
        noise=noise / signal if signal > 0 else 0.0,
        bits_lost=float(np.max(np.log2(found.scales.astype(np.float64) / natural.scales), initial=0.0)),
        channel_ratio=ratio,
        peak=float(np.max(largest[seen] / effective[seen], initial=1.0)),
        input_ratio=_input_ratio(np.abs(exact), layer.kind),
    )


def _input_ratio(magnitude: Array, kind: str) -> float:
    axis = {"conv": 1, "matmul": 0}.get(kind, 1)
    largest = np.moveaxis(magnitude, axis, 0).reshape(magnitude.shape[axis], -1).max(axis=1)
    largest = largest[largest > 0]
    return float(largest.max() / np.median(largest)) if len(largest) > 1 else 1.0


def _signal(layer: Layer, weight: npt.NDArray[np.float32], data: TensorStatistics | None) -> Array:
    """Mean square of what each weight is multiplied with, in a shape that broadcasts to the weight's."""
    one = np.ones((1,) * weight.ndim)
    if data is None or data.channels is None:
        return one
    square = data.channels.mean_square
    if layer.kind == "conv":
        inside = weight.shape[1]
        if inside == len(square):
            return square.reshape(1, -1, *([1] * (weight.ndim - 2)))
        if inside == 1 and weight.shape[0] % len(square) == 0:  # depthwise
            return np.repeat(square, weight.shape[0] // len(square)).reshape(-1, *([1] * (weight.ndim - 1)))
        return one
    if layer.kind == "matmul":
        return square.reshape(-1, 1) if weight.shape[0] == len(square) else one
    return square.reshape(1, -1) if weight.shape[1] == len(square) else one


def _mean_square(statistics: TensorStatistics) -> float:
    counts = statistics.counts.astype(np.float64)
    return float(np.sum(statistics.centres**2 * counts) / max(counts.sum(), 1.0))


def _clipped(statistics: TensorStatistics, low: float, high: float) -> float:
    """Mean square of what lies beyond a range."""
    centres, counts = statistics.centres, statistics.counts.astype(np.float64)
    beyond = np.maximum(centres - high, 0.0) + np.maximum(low - centres, 0.0)
    return float(np.sum(beyond**2 * counts) / max(counts.sum(), 1.0))


def _extent(value: ir.Value, plan: Plan) -> tuple[float, float] | None:
    at: ir.Value | None = value
    while at is not None:
        if at.name is not None and at.name in plan.ranges:
            return plan.ranges[at.name]
        node = at.producer()
        at = next(float_inputs(node), None) if node is not None and node.op_type in MOVING else None
    return None


def nearest_makers(value: ir.Value, layers: Mapping[str, Layer]) -> tuple[str, ...]:
    """The nearest layers before a value."""
    by_node = {node: layer.name for layer in layers.values() for node in layer.nodes}
    found: dict[str, None] = {}
    seen = {value}
    front = [value]
    for _ in range(_SEARCH_DEPTH):
        nodes = [node for node in (item.producer() for item in front) if node is not None]
        found |= dict.fromkeys(by_node[node] for node in nodes if node in by_node)
        front = [
            item
            for node in nodes
            if node not in by_node
            for item in node.inputs
            if item is not None and item not in seen
        ]
        seen.update(front)
        if found or not front:
            break
    return tuple(found)


def _readers(value: ir.Value, layers: Mapping[str, Layer]) -> tuple[str, ...]:
    """The nearest layers behind a value."""
    by_node = {layer.nodes[0]: layer.name for layer in layers.values()}
    found: dict[str, None] = {}
    seen = {value}
    front = [value]
    for _ in range(_SEARCH_DEPTH):
        nodes = [use.node for item in front for use in item.uses()]
        found |= dict.fromkeys(by_node[node] for node in nodes if node in by_node)
        front = [item for node in nodes if node not in by_node for item in node.outputs if item not in seen]
        seen.update(front)
        if found or not front:
            break
    return tuple(found)


def has_channels(value: ir.Value) -> bool:
    """Whether a value's channels can be told apart: it has a known rank of two or more."""
    shape = static_shape(value) if value.shape is not None else None
    return value.shape is not None and len(value.shape) >= 2 and (shape is None or 0 not in shape)
