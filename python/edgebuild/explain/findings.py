"""From parts and clues to the reasons for a loss in order, the most important first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgebuild.explain.causes import ADVICE, LITTLE, RATIO, Cause, Part, decibels, percent
from edgebuild.explain.growth import Growth
from edgebuild.explain.shift import Shift

GROWTH = 3.0
"""Noise behind over noise before an operator from which on it is called sensitive; in sound nets none exceeds 1.5."""

_SHOWN = 4
"""Values of those with nothing but rounding that are named."""

_OTHER_DATA = 4.0
"""Noise on held-out over noise on calibration data from which on the latter are blamed."""


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
    repairs: Sequence[Repair] = ()


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
        if noise > LITTLE:
            found.append(
                (
                    10 + noise if noise > clues.total else noise / scale,
                    Finding(
                        cause="saturation",
                        where=layer,
                        layers=(layer,),
                        share=None,
                        detail=f"on a CPU without VNNI {percent(pairs)} of its pairs of products exceed 16 bits: "
                        f"{decibels(noise)} of noise that this machine does not show",
                        advice=ADVICE["saturation"],
                    ),
                )
            )
    top = ordered[0] if ordered else None
    sensitive = _sensitive(clues)
    if sensitive is not None and sensitive.share is not None:
        dominates = sensitive.share >= 0.3 and (top is None or top.local < scale / GROWTH)
        found.append((1e3 if dominates else sensitive.share / 2, sensitive))
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


def _data(clues: Clues, blamed: Sequence[Part], scale: float) -> Finding | None:
    share = sum(max(part.noise, 0.0) for part in blamed) / scale
    ratio = None if clues.on_calibration is None else clues.total / max(clues.on_calibration, 1e-12)
    worse = ratio is not None and ratio >= _OTHER_DATA and clues.total > 10 * LITTLE
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


def suspects(growths: Sequence[Growth], total: float) -> list[Growth]:
    """Operators that may be sensitive, the largest first: what comes through them is worth measuring."""
    enough = max(LITTLE * 10, total / 10)
    found = [g for g in growths if g.factor >= GROWTH and g.after >= enough and g.before < 0.5]
    return sorted(found, key=lambda g: -math.log(g.factor) * min(1.0, g.after / max(total, 1e-30)))


def _sensitive(clues: Clues) -> Finding | None:
    candidates = suspects(clues.growths, clues.total)
    if not candidates:
        return None
    worst = max(candidates, key=lambda g: g.share * (1 - 1 / g.factor))
    share = worst.share * (1 - 1 / worst.factor)
    return Finding(
        cause="sensitive operator",
        where=f"{worst.operator} '{worst.node}'",
        layers=clues.near.get(worst.node, ()),
        share=share,
        detail=f"{worst.operator} makes {worst.factor:.3g} times the noise: {decibels(worst.before)} before it, {decibels(worst.after)} "
        f"behind; {worst.share:.0%} of the output's noise comes through it",
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
