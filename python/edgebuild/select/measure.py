"""Which of two runs faster: alternating, in processor time, with a statement that the noise allows."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

_WARM_UP = 2
_ROUND_S = 0.02
"""A round of one side lasts at least this long, so that the clock's own steps vanish."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Time of one inference on two sides, measured in turn.

    Args:
        base_ms: Median of the first side.
        other_ms: Median of the second.
        ratio: Median over the rounds of base over other; above 1: the second is faster.
        low: Lower end of the ratio's 95 % interval (order statistics of the rounds; no distribution is assumed).
        high: Upper end.
        rounds: Pairs that were measured.
    """

    base_ms: float
    other_ms: float
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def slower(self) -> bool:
        """Whether the second side is slower beyond noise: the whole interval lies below 1."""
        return self.high < 1.0

    @property
    def faster(self) -> bool:
        """Whether the second side is faster beyond noise."""
        return self.low > 1.0


def compare(
    base: Callable[[], object], other: Callable[[], object], *, rounds: int = 15, seconds: float = 4.0
) -> Comparison:
    """Runs two sides in turn.

    Args:
        base: One inference of the first side, on one thread.
        other: One inference of the second.
        rounds: Pairs at most; at least 7 are measured whatever the time.
        seconds: Time after which no further pair begins.
    """
    counts = [_repeats(side) for side in (base, other)]
    times: list[list[float]] = [[], []]
    start = time.monotonic()
    for index in range(rounds):
        if index >= 7 and time.monotonic() - start > seconds:
            break
        # Each pair begins with the other side, so that a drift favours neither.
        for side in (0, 1) if index % 2 == 0 else (1, 0):
            times[side].append(_time((base, other)[side], counts[side]))
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    low, high = _median_interval(len(ratios))
    return Comparison(
        base_ms=statistics.median(times[0]) * 1e3,
        other_ms=statistics.median(times[1]) * 1e3,
        ratio=statistics.median(ratios),
        low=ratios[low],
        high=ratios[high],
        rounds=len(ratios),
    )


def _repeats(side: Callable[[], object]) -> int:
    for _ in range(_WARM_UP):
        side()
    return max(1, round(_ROUND_S / max(_time(side, 1), 1e-7)))


def _time(side: Callable[[], object], count: int) -> float:
    begin = time.process_time()
    for _ in range(count):
        side()
    return max(time.process_time() - begin, 1e-9) / count


def _median_interval(count: int) -> tuple[int, int]:
    """Ranks, from 0, between which the median lies in 95 % of all cases, by the binomial distribution with p = 1/2.

    Below 6 values no such ranks exist; then the smallest and the largest.
    """
    rank, below = 0, 0.0
    for successes in range(count // 2):
        below += math.comb(count, successes) / 2**count
        if 2 * below > 0.05:
            break
        rank = successes
    return rank, count - 1 - rank
