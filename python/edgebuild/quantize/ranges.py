"""Quantisation ranges from a tensor's distribution: min-max, percentile, entropy and mean squared error.

All work on the bins of ``TensorStatistics``, which were filled in one pass over the data; none needs the data again. Within a
bin, which is at most 1/128 of its values wide, values are taken as evenly spread. Zeros, exact in every scheme, cost nothing.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgebuild import _runtime
from edgebuild.errors import InternalError
from edgebuild.quantize.statistics import TensorStatistics

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
RANGE_METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)

Array = NDArray[np.float64]

PERCENTILE = 99.99
"""Share of the values, in percent, that the percentile method keeps by default."""

_SMALLEST_STEP = 2.0**-100
"""No scale below this: its inverse and its product with another scale must stay normal float32 numbers."""

_LINEAR_BINS = 2048
"""Of the entropy method, as in its source."""

_STRIDE = 8


def choose_range(
    statistics: TensorStatistics,
    method: RangeMethod,
    *,
    levels: int = 256,
    symmetric: bool = False,
    percentile: float = PERCENTILE,
) -> tuple[float, float]:
    """The range that a quantiser with ``levels`` steps should cover.

    - ``minmax``: everything that was seen.
    - ``percentile``: all but ``100 - percentile`` percent of the values, half of them on each side (symmetric: by magnitude).
    - ``entropy``: the threshold on the magnitude with the least Kullback-Leibler divergence between the values and the quantised
      ones (Migacz, "8-bit inference with TensorRT", GTC 2017); zeros left out, a tenth clipped at the most.
    - ``mse``: the range with the least expected squared error of rounding and clipping together, both ends searched (as in Banner et
      al., "Post training 4-bit quantization of convolutional networks", NeurIPS 2019, but from the measured distribution).

    Args:
        statistics: Of at least one value.
        method: See above.
        levels: Number of quantised values: 256, 255 (symmetric without the lowest one), 128 (reduce_range), down to 4.
        symmetric: The zero point is the middle of the quantised values; the range is ``(-x, x)``.
        percentile: Of that method.

    Returns:
        ``(low, high)`` in real units: low <= 0 <= high, finite, and far enough apart for a normal float32 scale. The same for
        the same statistics, always.
    """
    if levels < 4 or statistics.count == 0:
        msg = f"a range needs 4 levels or more and one value at least, got {levels} and {statistics.count}"
        raise InternalError(msg)
    if method == "percentile":
        low, high = _percentile_range(statistics, percentile, symmetric)
    elif method == "entropy":
        low, high = _entropy_range(statistics, levels, symmetric)
    elif method == "mse":
        low, high = _mse_range(statistics, levels, symmetric)
    else:
        low, high = statistics.low, statistics.high
    return _usable(low, high, levels, symmetric)


def expected_error(
    statistics: TensorStatistics, low: float, high: float, *, levels: int = 256, symmetric: bool = False
) -> float:
    """Expected squared error of one value if this range is used, rounding and clipping together, in squared real units."""
    low, high = _usable(low, high, levels, symmetric)
    return float(
        _squared_errors(statistics, np.array([low]), np.array([high]), levels, symmetric)[0] / statistics.count
    )


def _usable(low: float, high: float, levels: int, symmetric: bool) -> tuple[float, float]:
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    width, least = high - low, _SMALLEST_STEP * levels
    if width == 0:  # nothing but zeros, which every range holds
        return (-1.0, 1.0) if symmetric else (0.0, 1.0)
    if width < least:
        low, high = low * (least / width), high * (least / width)
    return low + 0.0, high  # no negative zero


def _percentile_range(statistics: TensorStatistics, percentile: float, symmetric: bool) -> tuple[float, float]:
    lower, upper = statistics.edges()
    counts = statistics.counts.astype(np.float64)
    if symmetric:
        lower, upper = _magnitudes(lower, upper)
        order = np.argsort(lower, kind="stable")
        limit = _quantile(lower[order], upper[order], counts[order], percentile / 100)
        return -limit, limit
    tail = (1 - percentile / 100) / 2
    return _quantile(lower, upper, counts, tail), _quantile(lower, upper, counts, 1 - tail)


def _quantile(lower: Array, upper: Array, counts: Array, share: float) -> float:
    """The value at rank ``share * (n - 1)`` of n, between two neighbours in proportion, as in numpy; the extremes are exact."""
    ends = np.cumsum(counts)
    rank = share * (ends[-1] - 1)
    at = np.array([np.floor(rank), np.ceil(rank)])
    index = np.searchsorted(ends, at, side="right")
    values = lower[index] + (upper - lower)[index] * (at - (ends - counts)[index] + 0.5) / counts[index]
    values = np.where(at == 0, lower[0], np.where(at == ends[-1] - 1, upper[-1], values))
    return float(values[0] + (values[1] - values[0]) * (rank - at[0]))


def _magnitudes(lower: Array, upper: Array) -> tuple[Array, Array]:
    return np.minimum(np.abs(lower), np.abs(upper)), np.maximum(np.abs(lower), np.abs(upper))


def _entropy_range(statistics: TensorStatistics, levels: int, symmetric: bool) -> tuple[float, float]:
    limit = max(-statistics.low, statistics.high)
    if limit <= 0:
        return 0.0, 0.0
    one_sided = not symmetric and (statistics.low >= 0 or statistics.high <= 0)
    groups = levels if one_sided else levels // 2
    histogram = linear_magnitudes(statistics, _LINEAR_BINS)
    # A threshold just above the smallest of values that keep away from zero leaves one bin with everything in it, which looks like
    # no loss at all. So no more than a tenth may lie beyond.
    least = 1 + int(np.searchsorted(np.cumsum(histogram), 0.9 * histogram.sum()))
    least = min(max(least, groups), _LINEAR_BINS)
    # Every eighth threshold first, then all around the best: neighbours differ by little.
    coarse = np.append(np.arange(least, _LINEAR_BINS, _STRIDE), _LINEAR_BINS)
    best = coarse[np.argsort(divergence(histogram, groups, coarse), kind="stable")[:3]]
    around = (best[:, None] + np.arange(-_STRIDE + 1, _STRIDE)[None, :]).ravel()
    fine = np.unique(np.clip(around, least, _LINEAR_BINS))
    threshold = limit * float(fine[np.argmin(divergence(histogram, groups, fine))]) / _LINEAR_BINS
    return max(statistics.low, -threshold), min(statistics.high, threshold)


def linear_magnitudes(statistics: TensorStatistics, bins: int) -> Array:
    """Values but zeros by magnitude in ``bins`` bins of equal width from 0 to the largest, ``(bins,)``."""
    lower, upper = statistics.edges()
    counts = statistics.counts.astype(np.float64)
    limit = max(-statistics.low, statistics.high)
    at = np.linspace(0.0, limit, bins + 1)
    total = np.zeros(bins + 1)
    for side in (lower > 0, upper < 0):
        if side.any():
            near, far = _magnitudes(lower[side], upper[side])
            order = np.argsort(near, kind="stable")
            ends = np.cumsum(counts[side][order])
            points = np.stack([near[order], far[order]], axis=1).ravel()
            reached = np.stack([ends - counts[side][order], ends], axis=1).ravel()
            below = np.interp(at, points, reached, left=0.0)
            below[-1] = ends[-1]  # also if the last bin is a single value, a step
            total += below
    linear = np.diff(total)
    linear[linear < total[-1] * 1e-13] = 0.0  # what rounding left of nothing
    return linear


def divergence(histogram: Array, quantised: int, kept: NDArray[np.int64]) -> Array:
    """Kullback-Leibler divergence for thresholds that keep so many of the bins, ``(len(kept),)``.

    For a threshold at bin ``i`` the reference is ``histogram[:i]`` with what lies beyond added to its last bin; the candidate is
    ``histogram[:i]`` merged into ``quantised`` groups of (nearly) equal width, each spread evenly over its bins that are not empty.
    Infinite where the last bin is empty but something lies beyond.

    All sums over a group are differences of running sums, so that a threshold costs ``quantised`` steps, not ``i``.

    Args:
        histogram: Counts in bins of equal width from 0 on.
        quantised: Groups; at most ``min(kept)``.
        kept: Thresholds, 1 to ``len(histogram)``.
    """
    mass = np.concatenate([[0.0], np.cumsum(histogram)])
    filled = np.concatenate([[0], np.cumsum(histogram > 0)])
    own = np.concatenate([[0.0], np.cumsum(_xlogx(histogram))])
    bounds = kept[:, None] * np.arange(quantised + 1)[None, :] // quantised
    group_filled = np.diff(filled[bounds], axis=1)
    group_mass = np.where(group_filled > 0, np.diff(mass[bounds], axis=1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_even = np.where(group_filled > 0, np.log(group_mass / np.maximum(group_filled, 1)), 0.0)
        last = histogram[kept - 1]
        beyond = np.maximum(mass[-1] - mass[kept], 0.0)
        beyond[kept == len(histogram)] = 0.0
        reference = own[kept] - _xlogx(last) + _xlogx(last + beyond)
        candidate = (group_mass * log_even).sum(axis=1) + beyond * log_even[:, -1]
        result = (reference - candidate) / mass[-1] - np.log(mass[-1]) + np.log(mass[kept])
    result[(mass[kept] <= 0) | ((last <= 0) & (beyond > 0))] = np.inf
    return np.asarray(result, np.float64)


def _xlogx(x: Array) -> Array:
    return np.asarray(x * np.log(np.where(x > 0, x, 1.0)), np.float64)


def _mse_range(statistics: TensorStatistics, levels: int, symmetric: bool) -> tuple[float, float]:
    """Coarse to fine: a grid of both ends by an approximate error that is cheap, then ever finer ones by the exact error.

    Ends are shrunk by ratios, not steps: with an outlier 1,000 times as large as the rest the best end is that far down.
    """
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if high - low == 0:
        return 0.0, 0.0
    ratios = 2.0 ** (-np.arange(_COARSE) / 4)
    lows, highs = _pairs(low * ratios, high * ratios, symmetric)
    rough = _rough_errors(statistics, lows, highs, levels)
    best = np.concatenate([[0], np.argsort(rough, kind="stable")[:_FINALISTS]])
    lows, highs = lows[best], highs[best]
    errors = _squared_errors(statistics, lows, highs, levels, symmetric)
    for step in (0.25, 0.07, 0.02):
        at = int(np.argmin(errors))
        around = 2.0 ** (step * np.linspace(-1, 1, _FINE))
        near_lows, near_highs = _pairs(
            np.maximum(lows[at] * around, low), np.minimum(highs[at] * around, high), symmetric
        )
        lows, highs = np.append(near_lows, lows[at]), np.append(near_highs, highs[at])
        errors = np.append(_squared_errors(statistics, near_lows, near_highs, levels, symmetric), errors[at])
    at = int(np.argmin(errors))
    return float(lows[at]), float(highs[at])


_COARSE = 64
_FINALISTS = 8
_FINE = 5


def _pairs(lows: Array, highs: Array, symmetric: bool) -> tuple[Array, Array]:
    """Every combination of two ends, once; only (-x, x) if symmetric. An end at 0 stays there."""
    if symmetric:
        highs = np.unique(highs)[::-1]
        return -highs, highs
    grid = np.meshgrid(np.unique(lows), np.unique(highs)[::-1], indexing="ij")
    return grid[0].ravel(), grid[1].ravel()


def _rough_errors(statistics: TensorStatistics, lows: Array, highs: Array, levels: int) -> Array:
    """Squared errors summed over all values, from running moments: O(log bins) a candidate.

    Rounding costs step^2/12 a value, but x^2 for what is rounded to zero; clipping is exact up to the bin that is cut.
    """
    centres = statistics.centres
    counts = statistics.counts.astype(np.float64)
    moments = np.zeros((3, len(centres) + 1))
    for power in range(3):
        np.cumsum(counts * centres**power, out=moments[power, 1:])
    step = (highs - lows) / (levels - 1)

    def between(start: Array, end: Array) -> Array:
        bounds = np.searchsorted(centres, start), np.searchsorted(centres, end)
        return np.asarray(moments[:, bounds[1]] - moments[:, bounds[0]], np.float64)

    def clipped(part: Array, end: Array) -> Array:
        return np.asarray(np.maximum(part[2] - 2 * end * part[1] + end**2 * part[0], 0.0), np.float64)

    infinity = np.full_like(lows, np.inf)
    under, over = between(-infinity, lows), between(highs, infinity)
    zeroed = between(np.maximum(-step / 2, lows), np.minimum(step / 2, highs))
    rounded = statistics.count - under[0] - over[0] - zeroed[0]
    return np.asarray(clipped(under, lows) + clipped(over, highs) + zeroed[2] + rounded * step**2 / 12, np.float64)


def _squared_errors(statistics: TensorStatistics, lows: Array, highs: Array, levels: int, symmetric: bool) -> Array:
    """Squared errors summed over all values for each candidate, exact for values that are evenly spread within their bins.

    The grid is that of the quantiser: its zero point is a whole number, which moves the range by up to half a step.
    """
    lower, upper = statistics.edges()
    counts = statistics.counts.astype(np.float64)
    return _runtime.quantization_errors(lower, upper, counts, lows, highs, levels, symmetric)
