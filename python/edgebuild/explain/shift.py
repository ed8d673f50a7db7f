"""Whether the data that ranges come from look like the data that a model is used on: the inputs themselves, before any layer."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Batch = Mapping[str, npt.NDArray[Any]]
Array = npt.NDArray[np.float64]

_SCALE = 2.0
"""Ratio of magnitudes from which on a scale is another one, not another scene."""

_DISTANCE = 0.35
"""Difference of means from which on data count as others, in standard deviations of the held-out values."""

_EVIDENCE = 4.0
"""And in standard errors, so that few samples prove nothing."""

_KNOWN = {
    255.0: "pixels of 0 to 255 in one, of 0 to 1 in the other",
    128.0: "pixels of 0 to 255 in one, of -1 to 1 in the other",
}


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A difference between the calibration data and the held-out data.

    Args:
        input: Where.
        kind: "scale", "channels" (in another order) or "distribution".
        text: What was seen, with numbers.
        strength: How far, to compare shifts: log2 of the scale, or the distance in standard deviations.
    """

    input: str
    kind: str
    text: str
    strength: float


def find_shift(calibration: Sequence[Batch], held_out: Sequence[Batch]) -> Shift | None:
    """The strongest difference between two sets of batches; None: they look alike, or there is too little to tell."""
    if not calibration or not held_out:
        return None
    found = []
    for name in held_out[0]:
        if held_out[0][name].dtype.kind != "f" or name not in calibration[0]:
            continue
        shift = _of_input(name, _samples(calibration, name), _samples(held_out, name))
        if shift is not None:
            found.append(shift)
    return max(found, key=lambda shift: shift.strength, default=None)


def _samples(batches: Sequence[Batch], name: str) -> list[Array]:
    """Each sample's values as (channels, values)."""
    found = []
    for batch in batches:
        array = np.asarray(batch[name], np.float64)
        rows = array if array.ndim >= 2 else array.reshape(1, -1)
        for row in rows:
            if row.ndim >= 3:
                axis = 0 if row.shape[0] in (1, 3, 4) or row.shape[-1] not in (1, 3, 4) else -1
                found.append(np.moveaxis(row, axis, 0).reshape(row.shape[axis], -1))
            else:
                found.append(row.reshape(1, -1))
    return found


def _of_input(name: str, first: list[Array], second: list[Array]) -> Shift | None:
    if any(row.size == 0 for row in (*first, *second)) or len({len(row) for row in (*first, *second)}) != 1:
        return None
    one, other = (np.sqrt(np.mean([np.mean(row**2) for row in rows])) for rows in (first, second))
    if one <= 0 or other <= 0:
        if one == other:
            return None
        which = "calibration" if one <= 0 else "held-out"
        return Shift(input=name, kind="distribution", text=f"all {which} values of '{name}' are 0", strength=math.inf)
    ratio = float(max(one / other, other / one))
    if ratio >= _SCALE:
        larger = "calibration" if one > other else "held-out"
        known = next((text for value, text in _KNOWN.items() if 0.6 * value < ratio < 1.7 * value), "")
        text = f"'{name}': {larger} values are {ratio:.3g} times as large" + (f" ({known}?)" if known else "")
        return Shift(input=name, kind="scale", text=text, strength=math.log2(ratio) + 1)
    means = [np.array([row.mean(axis=1) for row in rows]) for rows in (first, second)]  # (samples, channels)
    deviation = max(float(np.sqrt(np.mean([row.var(axis=1).mean() for row in second]))), 1e-12)
    deviations = [np.array([row.std(axis=1) for row in rows]) for rows in (first, second)]
    swapped = _swapped(name, means, deviations, deviation)
    if swapped is not None:
        return swapped
    for what, sides in (("mean", means), ("spread", deviations)):
        distance, evidence = _distance(sides[0], sides[1], deviation)
        worst = int(np.argmax(distance * (evidence > _EVIDENCE)))
        if evidence[worst] > _EVIDENCE and distance[worst] > _DISTANCE:
            where = f" of channel {worst}" if len(distance) > 1 else ""
            values = [float(side[:, worst].mean()) for side in sides]
            text = f"'{name}': the {what}{where} is {values[0]:.3g} in the calibration data, {values[1]:.3g} in the held-out data"
            return Shift(input=name, kind="distribution", text=text, strength=float(distance[worst]))
    return None


def _distance(one: Array, other: Array, deviation: float) -> tuple[Array, Array]:
    """Of each channel: difference in standard deviations of the values, and in standard errors."""
    difference = np.abs(one.mean(axis=0) - other.mean(axis=0))
    error = np.sqrt(one.var(axis=0) / len(one) + other.var(axis=0) / len(other)) + 1e-12 * (1 + deviation)
    return difference / deviation, difference / error


def _swapped(name: str, means: list[Array], deviations: list[Array], deviation: float) -> Shift | None:
    """Whether the channels fit in another order, and only then: BGR for RGB."""
    count = means[0].shape[1]
    if not 2 <= count <= 4 or min(len(side) for side in means) < 4:
        return None
    sides = [np.concatenate(pair, axis=1) for pair in zip(means, deviations, strict=True)]
    error = np.sqrt(sum(side.var(axis=0) / len(side) for side in sides)) + 1e-9 * deviation
    fits = {}
    for order in itertools.permutations(range(count)):
        columns = [*order, *(count + index for index in order)]
        difference = sides[0][:, columns].mean(axis=0) - sides[1].mean(axis=0)
        errors = np.sqrt((error[columns] ** 2 + error**2) / 2)
        fits[order] = float(np.sqrt(np.mean((difference / errors) ** 2)))
    same = tuple(range(count))
    best = min(fits, key=lambda order: fits[order])
    if best == same or fits[same] < _EVIDENCE or fits[best] > 0.5 * fits[same]:
        return None
    reversed_order = best == same[::-1] and count == 3
    order_text = "reversed (BGR for RGB)" if reversed_order else f"in the order {', '.join(map(str, best))}"
    values = [", ".join(f"{value:.3g}" for value in side.mean(axis=0)) for side in means]
    text = f"'{name}': the channels are {order_text}: their means are {values[0]} in the calibration data, {values[1]} held out"
    return Shift(input=name, kind="channels", text=text, strength=100.0 + fits[same])
