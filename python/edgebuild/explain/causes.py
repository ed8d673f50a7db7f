"""From measured noise and distributions to causes in words, the most important one first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgebuild.explain.values import QuantizedValue, ValueNoise, WeightNoise
from edgebuild.quantize.statistics import TensorStatistics

Cause = Literal[
    "calibration data",
    "clipping",
    "wide range",
    "channel range ratio",
    "outliers",
    "saturation",
    "sensitive operator",
    "rounding",
]

ADVICE: Mapping[Cause, str] = {
    "calibration data": "calibrate with data like those in use, prepared in the same way",
    "clipping": "give calibration samples that reach these values, or another range method (--effort best tries all)",
    "wide range": "leave the samples out of the calibration data that reach so far",
    "channel range ratio": "equalise the channels before training ends, or leave the layer in float",
    "outliers": "leave the layer in float, or train with smaller outliers; the integers are spent on a few values",
    "saturation": "use 7-bit weights (reduce_range in the target file), or a CPU with VNNI",
    "sensitive operator": "leave what feeds the operator in float",
    "rounding": "nothing stands out: eight bits are what they are; leave the layer in float if it matters",
}

RATIO = 10.0
"""Largest over median magnitude of channels from which on they are called unequal."""

PEAK = 15.0
"""Largest over root mean square magnitude from which on values are called outliers."""

_FEW = 0.005
"""Share of values beyond a range up to which they are outliers, above which the range is too small."""

LITTLE = 1e-4
"""Noise over signal (40 dB) below which nothing is blamed."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What adds noise: a value's integers, or a layer's weights.

    Args:
        kind: "value" or "weights".
        name: Of the value, or of the layer.
        layers: That make or read it, the one with the largest contribution first.
        noise: Of the output, over signal, that it is to blame for.
        local: Noise over signal of the value or the weights themselves.
        cause: Why.
        detail: With numbers.
    """

    kind: Literal["value", "weights"]
    name: str
    layers: tuple[str, ...]
    noise: float
    local: float
    cause: Cause
    detail: str


def value_cause(
    value: QuantizedValue, noise: ValueNoise, held: TensorStatistics, calibration: TensorStatistics | None
) -> tuple[Cause, str]:
    """Why a value's integers are noisy.

    Args:
        value: What it covers.
        noise: Of it.
        held: Its distribution on held-out data, with channels.
        calibration: On calibration data; None: unknown.
    """
    if value.extent is not None:
        low, high = value.extent
        width, seen = high - low, max(held.high, 0.0) - min(held.low, 0.0)
        beyond = _share_beyond(held, low, high)
        peak = _peak(held)
        if noise.clipping > max(noise.rounding, LITTLE / 10) and beyond > 0:
            text = f"{percent(beyond)} of the values lie beyond the range {_range(low, high)}, as far as {_range(held.low, held.high)}"
            if calibration is not None and _beyond_data(value.extent, held, calibration, beyond):
                return "calibration data", f"{text}; calibration saw {_range(calibration.low, calibration.high)}"
            if _few_channels_beyond(held, low, high):
                ratio, _ = _channel_ratios(held)
                return "channel range ratio", (
                    f"the largest channel reaches {ratio:.3g} times as far as the median one; the one scale clips it and is coarse for all others"
                )
            if beyond <= _FEW and peak >= PEAK:
                return "outliers", f"{text}: {peak:.3g} times the root mean square"
            return "clipping", text
        if seen > 0 and width > 3 * seen:
            text = f"the range {_range(low, high)} is {width / seen:.3g} times as wide as what comes, {_range(held.low, held.high)}"
            if calibration is not None and (max(calibration.high, 0.0) - min(calibration.low, 0.0)) > 2 * seen:
                return "calibration data", f"{text}; calibration saw {_range(calibration.low, calibration.high)}"
            return "wide range", text
    ratio, power_ratio = _channel_ratios(held)
    if ratio >= RATIO and power_ratio >= math.sqrt(RATIO):
        return "channel range ratio", (
            f"the largest channel reaches {ratio:.3g} times as far as the median one, and all share one scale"
        )
    peak = _peak(held)
    if peak >= PEAK:
        return "outliers", f"the largest value is {peak:.3g} times the root mean square"
    return (
        "rounding",
        f"{decibels(noise.rounding)} of its own noise, range {_range(*(value.extent or (held.low, held.high)))}",
    )


def weight_cause(noise: WeightNoise) -> tuple[Cause, str]:
    """Why a layer's weights are noisy."""
    if noise.bits_lost >= 1:
        return "saturation", f"the bias would not fit 32 bits, so the weights have {noise.bits_lost:.1f} bits less"
    if noise.channel_ratio >= RATIO:
        return (
            "channel range ratio",
            f"the largest channel of the weights is {noise.channel_ratio:.3g} times the median one, with one scale",
        )
    if noise.input_ratio >= RATIO and noise.noise > 10 * LITTLE:
        return "channel range ratio", (
            f"the weights of the largest input channel are {noise.input_ratio:.3g} times those of the median one; "
            f"{decibels(noise.noise)} of their own noise"
        )
    if noise.peak >= PEAK:
        return "outliers", f"the largest weight of a channel is {noise.peak:.3g} times its root mean square"
    return "rounding", f"{decibels(noise.noise)} of their own noise"


def channel_ratio(magnitudes: Sequence[float]) -> float:
    """Largest over median; channels of zeros are left out."""
    seen = np.asarray(magnitudes, np.float64)
    seen = seen[seen > 0]
    return float(seen.max() / np.median(seen)) if len(seen) else 1.0


def _beyond_data(
    extent: tuple[float, float], held: TensorStatistics, calibration: TensorStatistics, beyond: float
) -> bool:
    """Whether what is clipped lies beyond what calibration saw, not beyond a range that was chosen smaller.

    That a few values of new data go a little further is no fault of the old ones: it has to be many, or far.
    """
    low, high = extent
    above = held.high - high >= low - held.low
    end, seen, comes = (high, calibration.high, held.high) if above else (-low, -calibration.low, -held.low)
    return end >= 0.7 * seen and comes > (1.2 if beyond > _FEW else 2.0) * max(seen, 0.0)


def _share_beyond(statistics: TensorStatistics, low: float, high: float) -> float:
    width = high - low
    centres, counts = statistics.centres, statistics.counts.astype(np.float64)
    return float(
        counts[(centres > high + 0.002 * width) | (centres < low - 0.002 * width)].sum() / max(counts.sum(), 1.0)
    )


def _few_channels_beyond(statistics: TensorStatistics, low: float, high: float) -> bool:
    """Whether what lies beyond a range is that of a few channels which are much larger than the others."""
    channels = statistics.channels
    if channels is None or len(channels.absmax) < 4:
        return False
    beyond = (channels.high > high) | (channels.low < low)
    ratio, power_ratio = _channel_ratios(statistics)
    return bool(beyond.mean() <= 0.25) and ratio >= RATIO and power_ratio >= math.sqrt(RATIO)


def _peak(statistics: TensorStatistics) -> float:
    counts = statistics.counts.astype(np.float64)
    effective = math.sqrt(float(np.sum(statistics.centres**2 * counts) / max(counts.sum(), 1.0)))
    return max(-statistics.low, statistics.high) / effective if effective > 0 else 1.0


def _channel_ratios(statistics: TensorStatistics) -> tuple[float, float]:
    """Largest over median of the channels: of magnitudes, and of root mean squares; channels of zeros are left out."""
    channels = statistics.channels
    if channels is None or len(channels.absmax) < 2:
        return 1.0, 1.0
    return channel_ratio(channels.absmax.tolist()), channel_ratio(np.sqrt(channels.mean_square).tolist())


def _range(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.2%}" if share < 0.1 else f"{share:.0%}"


def decibels(noise: float) -> str:
    """Noise over signal as a ratio of signal to noise."""
    return f"{-10 * math.log10(noise):.1f} dB" if noise > 0 else "none"
