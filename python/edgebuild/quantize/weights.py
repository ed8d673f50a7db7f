"""Weights as integers: symmetric, per output channel, rounded to the nearest."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgebuild.quantize.parameters import SMALLEST_SCALE
from edgebuild.targets.spec import QuantizationScheme

_BIAS_LIMIT = float(2**31 - 2**8)
"""Of an int32 bias, with room for the rounding."""

_SUM_LIMIT = 2**31 - 1
"""Of the products of one output, which engines add up in int32."""

_ACTIVATION_STEPS = 255
"""The largest difference of an activation of 8 bits to its zero point."""

_SCALE_OF_ZEROS = np.float32(2.0**-20)
"""Where all weights are 0: small, because the bias is rounded to steps of it."""


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """Integers with a scale for each output channel (or one for all); the zero point is 0.

    Args:
        values: int8, the shape of the weight.
        scales: float32, ``(channels,)``, or ``(1,)`` for one scale; above 0.
        axis: Axis of ``values`` that the channels lie on.
        limit: The largest magnitude that ``values`` may have.
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    axis: int
    limit: int = 127

    def dequantized(self) -> npt.NDArray[np.float32]:
        """What the integers stand for, float32, the shape of the weight."""
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.values.astype(np.float32) * self.scales.reshape(shape)


def weight_limit(*, reduce_range: bool) -> int:
    """The largest magnitude of a weight: 127, or 63 where pairs of products must fit 16 bits (255 * 63 * 2 < 2**15)."""
    return 63 if reduce_range else 127


def rounding_key(scheme: QuantizationScheme) -> str:
    """What decides the scales of weights, and so which roundings a scheme can use: "127", "63", or "127-tensor" with one scale for all."""
    return f"{weight_limit(reduce_range=scheme.reduce_range)}{'' if scheme.per_channel else '-tensor'}"


def quantize_weight(
    weight: npt.NDArray[np.float32],
    axis: int,
    *,
    per_channel: bool = True,
    reduce_range: bool = False,
    smallest_scales: npt.NDArray[np.float32] | None = None,
) -> QuantizedWeight:
    """Symmetric integers for a weight.

    Args:
        weight: Finite, at least one axis.
        axis: The axis of the output channels.
        per_channel: A scale for each channel, else one for all.
        reduce_range: 7 bits instead of 8.
        smallest_scales: Lower bounds for the scales, e.g. so that the bias fits 32 bits; None: none.
    """
    limit = weight_limit(reduce_range=reduce_range)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    magnitude = np.max(np.abs(weight), axis=others, initial=0.0) if per_channel else np.max(np.abs(weight), initial=0.0)
    scales = (np.atleast_1d(magnitude).astype(np.float64) / limit).astype(np.float32)
    # A channel of zeros is zero whatever its scale, and one that is next to it is made so. But its bias, which then is
    # all that it gives, is rounded to steps of this scale: they are as fine as the finest of the others.
    usable = scales >= SMALLEST_SCALE
    scales = np.where(
        usable, scales, np.min(scales, where=usable, initial=np.inf) if np.any(usable) else _SCALE_OF_ZEROS
    )
    scales = scales.astype(np.float32)
    if smallest_scales is not None:
        scales = np.maximum(scales, smallest_scales.astype(np.float32))
    depth = weight.size // max(weight.shape[axis], 1)
    if depth * limit * _ACTIVATION_STEPS > _SUM_LIMIT:
        scales = np.maximum(scales, _scales_for_sums(weight, others, depth, per_channel=per_channel))
    shape = [1] * weight.ndim
    shape[axis] = -1
    values = np.clip(np.rint(weight / scales.reshape(shape)), -limit, limit).astype(np.int8)
    return QuantizedWeight(values=values, scales=scales, axis=axis, limit=limit)


def _scales_for_sums(
    weight: npt.NDArray[np.float32], others: tuple[int, ...], depth: int, *, per_channel: bool
) -> npt.NDArray[np.float32]:
    """The smallest scales with which no activation makes a sum leave 32 bits: only outputs of over 66,000 weights can."""
    sums = np.abs(weight).sum(axis=others, dtype=np.float64)
    # Rounding adds at most half to each magnitude, and at most doubles their sum.
    room = max(_SUM_LIMIT / _ACTIVATION_STEPS - depth / 2, _SUM_LIMIT / _ACTIVATION_STEPS / 2)
    bounds: npt.NDArray[np.float32] = np.asarray(sums / room * (1 + 1e-6), np.float32)
    return bounds if per_channel else np.asarray(np.max(bounds, keepdims=True, initial=0.0), np.float32)


def scales_for_bias(bias: npt.NDArray[np.float32] | None, data_scale: float) -> npt.NDArray[np.float32] | None:
    """The smallest weight scales with which a bias, in steps of data scale x weight scale, fits 32 bits."""
    if bias is None:
        return None
    return (np.abs(bias.astype(np.float64)) / (data_scale * _BIAS_LIMIT)).astype(np.float32)


def quantize_bias(
    bias: npt.NDArray[np.float32], data_scale: float, scales: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """A bias in steps of data scale x weight scale: int32 values and float32 scales, both ``(channels,)``."""
    steps = (np.float32(data_scale) * np.broadcast_to(scales, bias.shape)).astype(np.float32)
    values = np.clip(np.rint(bias.astype(np.float64) / steps), -_BIAS_LIMIT, _BIAS_LIMIT).astype(np.int32)
    return values, steps
