"""From measured noise and distributions to causes in words, the most important one first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edgebuild.explain.growth import Growth
from edgebuild.explain.shift import Shift
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

GROWTH = 3.0
"""Noise behind over noise before an operator from which on it is called sensitive."""

_FEW = 0.005
"""Share of values beyond a range up to which they are outliers, above which the range is too small."""

_SHOWN = 4
"""Values of those with nothing but rounding that are named."""

_LITTLE = 1e-4
"""Noise over signal (40 dB) below which nothing is blamed."""

_OTHER_DATA = 4.0
"""Noise on held-out over noise on calibration data from which on the latter are blamed."""


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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One reason for a loss.

    Args:
        cause: Why.
        where: The value, operator or input.
        layers: The layers that it concerns, most noise first; empty: all of them.
        share: Of all noise; None: it does not show on this machine.
        detail: With numbers.
        advice: What to do.
        repaired: Whether what was done to the graph before it was quantised has taken care of it.
    """

    cause: Cause
    where: str
    layers: tuple[str, ...]
    share: float | None
    detail: str
    advice: str
    repaired: bool = False


@dataclass(frozen=True, kw_only=True)
class Clues:
    """What was measured beside the parts.

    Args:
        total: Noise over signal of the output on held-out data.
        on_calibration: The same on calibration data; None: there is none.
        shift: Between both.
        growths: Of operators.
        near: Layers before each operator, by its node's name.
        saturation: By layer (noise over signal, share of pairs) on a CPU that adds pairs in 16 bits.
        repairs: What smoothing and equalisation took care of.
    """

    total: float
    on_calibration: float | None = None
    shift: Shift | None = None
    growths: Sequence[Growth] = ()
    near: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    saturation: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    repairs: Sequence["Repair"] = ()


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Unequal channels that were made equal before anything was quantised.

    Args:
        where: The value, or the layer that makes it.
        layers: Around it.
        ratio: Largest over median channel, before.
        how: "smoothing" or "equalisation".
    """

    where: str
    layers: tuple[str, ...]
    ratio: float
    how: str


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
        if noise.clipping > max(noise.rounding, _LITTLE / 10) and beyond > 0:
            text = f"{_percent(beyond)} of the values lie beyond the range {_range(low, high)}, as far as {_range(held.low, held.high)}"
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
        f"{_decibels(noise.rounding)} of its own noise, range {_range(*(value.extent or (held.low, held.high)))}",
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
    if noise.input_ratio >= RATIO and noise.noise > 10 * _LITTLE:
        return "channel range ratio", (
            f"the weights of the largest input channel are {noise.input_ratio:.3g} times those of the median one; "
            f"{_decibels(noise.noise)} of their own noise"
        )
    if noise.peak >= PEAK:
        return "outliers", f"the largest weight of a channel is {noise.peak:.3g} times its root mean square"
    return "rounding", f"{_decibels(noise.noise)} of their own noise"


def findings(parts: Sequence[Part], clues: Clues) -> tuple[Finding, ...]:
    """All reasons, the most important first.

    Other data come before everything: whatever they do to single layers follows from them. Then what does not show on this
    machine but is larger than what does. An operator that makes small noise large comes before the layers whose noise it is,
    unless their own noise is large without it.
    """
    scale = max(clues.total, 1e-30)
    ordered = sorted(parts, key=lambda part: -part.noise)
    found: list[tuple[float, Finding]] = []
    blamed = [part for part in ordered if part.cause == "calibration data"]
    data = _data(clues, blamed, scale)
    if data is not None:
        found.append((math.inf, data))
    for layer, (noise, pairs) in clues.saturation.items():
        if noise > _LITTLE:
            found.append(
                (
                    10 + noise if noise > clues.total else noise / scale,
                    Finding(
                        cause="saturation",
                        where=layer,
                        layers=(layer,),
                        share=None,
                        detail=f"on a CPU without VNNI {_percent(pairs)} of its pairs of products exceed 16 bits: "
                        f"{_decibels(noise)} of noise that this machine does not show",
                        advice=ADVICE["saturation"],
                    ),
                )
            )
    top = ordered[0] if ordered else None
    sensitive = _sensitive(clues, top)
    if sensitive is not None:
        found.append((1e3 if top is None or top.local < scale / GROWTH else 0.5, sensitive))
    plain = [part for part in ordered if part.cause == "rounding"]
    if plain:
        found.append((plain[0].noise / scale, _rounding(plain, scale)))
    for part in ordered:
        if part.cause != "rounding" and not (data is not None and part in blamed):
            share = part.noise / scale
            found.append((share, _of_part(part, share)))
    # What was repaired says most where nothing else stands out.
    quiet = all(part.cause == "rounding" or part.noise < 0.3 * scale for part in parts)
    for repair in sorted(clues.repairs, key=lambda repair: -repair.ratio):
        found.append((5.0 if quiet and repair.ratio >= 3 * RATIO else 0.0, _of_repair(repair)))
    found.sort(key=lambda item: -item[0])
    return tuple(finding for _, finding in found)


def _rounding(parts: Sequence[Part], scale: float) -> Finding:
    """All that is nothing but rounding, as one: the largest is named."""
    share = sum(part.noise for part in parts) / scale
    shown = ", ".join(f"{_where(part)} {part.noise / scale:.0%}" for part in parts[:_SHOWN])
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    detail = f"{shown}{more}; {parts[0].detail}" if len(parts) > 1 else parts[0].detail
    layers = tuple(dict.fromkeys(layer for part in parts for layer in part.layers))
    return Finding(
        cause="rounding", where=_where(parts[0]), layers=layers, share=share, detail=detail, advice=ADVICE["rounding"]
    )


def _where(part: Part) -> str:
    return part.name if part.kind == "value" else f"weights of {part.name}"


def _of_repair(repair: Repair) -> Finding:
    return Finding(
        cause="channel range ratio",
        where=repair.where,
        layers=repair.layers,
        share=None,
        detail=f"the largest channel reached {repair.ratio:.3g} times as far as the median one; {repair.how} has moved that into the weights",
        advice="nothing: without it this would be the largest loss" if repair.ratio >= 3 * RATIO else "nothing",
        repaired=True,
    )


def channel_ratio(magnitudes: Sequence[float]) -> float:
    """Largest over median; channels of zeros are left out."""
    seen = np.asarray(magnitudes, np.float64)
    seen = seen[seen > 0]
    return float(seen.max() / np.median(seen)) if len(seen) else 1.0


def _data(clues: Clues, blamed: Sequence[Part], scale: float) -> Finding | None:
    share = sum(max(part.noise, 0.0) for part in blamed) / scale
    ratio = None if clues.on_calibration is None else clues.total / max(clues.on_calibration, 1e-12)
    worse = ratio is not None and ratio >= _OTHER_DATA and clues.total > 10 * _LITTLE
    # Noise alone proves nothing: where few samples decide it, any two sets differ.
    if clues.shift is None and share < (0.1 if worse else 0.5):
        return None
    texts = [clues.shift.text] if clues.shift is not None else []
    if ratio is not None and worse:
        texts.append(f"the noise on held-out data is {ratio:.3g} times that on the calibration data")
    if blamed:
        texts.append(f"{blamed[0].name}: {blamed[0].detail}")
    layers = tuple(dict.fromkeys(layer for part in blamed for layer in part.layers))
    return Finding(
        cause="calibration data",
        where=f"input '{clues.shift.input}'"
        if clues.shift is not None
        else (blamed[0].name if blamed else "calibration data"),
        layers=layers,
        share=min(max(share, 1 - 1 / ratio if ratio is not None and worse else 0.0), 1.0),
        detail="; ".join(texts),
        advice=ADVICE["calibration data"],
    )


def _sensitive(clues: Clues, top: Part | None) -> Finding | None:
    enough = max(_LITTLE * 10, clues.total / 10)
    candidates = [g for g in clues.growths if g.factor >= GROWTH and g.after >= enough and g.before < 0.5]
    if not candidates:
        return None
    worst = max(candidates, key=lambda g: math.log(g.factor) * min(1.0, g.after / max(clues.total, 1e-30)))
    return Finding(
        cause="sensitive operator",
        where=f"{worst.operator} '{worst.node}'",
        layers=clues.near.get(worst.node, ()),
        share=min(1.0, 1 - 1 / worst.factor),
        detail=f"{worst.operator} makes {worst.factor:.3g} times the noise: {_decibels(worst.before)} before it, {_decibels(worst.after)} behind",
        advice=ADVICE["sensitive operator"],
    )


def _of_part(part: Part, share: float) -> Finding:
    return Finding(
        cause=part.cause,
        where=_where(part),
        layers=part.layers,
        share=share,
        detail=part.detail,
        advice=ADVICE[part.cause],
    )


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


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.0%}"


def _decibels(noise: float) -> str:
    """Noise over signal as a ratio of signal to noise."""
    return f"{-10 * math.log10(noise):.1f} dB" if noise > 0 else "none"
