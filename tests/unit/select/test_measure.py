"""Comparing two sides: the interval against the binomial distribution counted out, the clock replaced by a table."""

import itertools
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from edgebuild.select import measure


@pytest.mark.parametrize("count", range(6, 17))
def test_the_interval_of_the_median_is_the_narrowest_with_95_percent(count: int) -> None:
    # Each value lies above or below the true median with the same chance: all 2**count cases, by how many lie below.
    below = np.bincount([int(case).bit_count() for case in range(2**count)], minlength=count + 1) / 2**count

    def coverage(rank: int) -> float:
        """Chance that the median lies between the values of ``rank`` and ``count - 1 - rank``."""
        return float(np.sum(below[rank + 1 : count - rank]))

    low, high = measure._median_interval(count)
    assert high == count - 1 - low
    assert coverage(low) >= 0.95
    assert coverage(low + 1) < 0.95


@pytest.mark.parametrize("count", range(1, 6))
def test_few_values_give_the_whole_range(count: int) -> None:
    assert measure._median_interval(count) == (0, count - 1)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    values = np.sort(random.lognormal(size=(20_000, 15)), axis=1)
    low, high = measure._median_interval(15)
    held = (values[:, low] <= 1.0) & (values[:, high] >= 1.0)  # the median of exp(normal) is 1
    assert 0.955 < np.mean(held) < 0.975  # exactly 1 - 2 * 576 / 32768 = 0.965


class Clock:
    """Processor time that passes only where a side runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(measure.time, "process_time", lambda: self.now)
        monkeypatch.setattr(measure.time, "monotonic", lambda: self.now)

    def side(self, name: str, seconds: Callable[[], float]) -> Callable[[], object]:
        def run() -> None:
            self.now += seconds()
            self.order.append(name)

        return run


def test_the_ratio_is_base_over_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = measure.compare(clock.side("a", lambda: 0.004), clock.side("b", lambda: 0.002), rounds=9)
    assert found.base_ms == pytest.approx(4)
    assert found.other_ms == pytest.approx(2)
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))
    assert found.rounds == 9
    assert found.faster
    assert not found.slower


def test_a_side_that_is_slower_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    found = measure.compare(clock.side("a", lambda: 0.001), clock.side("b", lambda: 0.0011))
    assert found.slower
    assert not found.faster


def test_noise_makes_no_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    noise = itertools.cycle([0.03, 0.05, 0.02, 0.06, 0.04, 0.07, 0.025])
    other = itertools.cycle([0.05, 0.02, 0.06, 0.03, 0.04])
    found = measure.compare(clock.side("a", lambda: next(noise)), clock.side("b", lambda: next(other)), seconds=100)
    assert not found.faster
    assert not found.slower
    assert found.low < 1 < found.high


def test_sides_take_turns_at_going_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    measure.compare(clock.side("a", lambda: 1.0), clock.side("b", lambda: 1.0), rounds=8, seconds=1000)
    assert "".join(clock.order[-16:]) == "abbaabbaabbaabba"


def test_rounds_end_with_the_time_but_not_before_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    side = clock.side("a", lambda: 1.0)
    assert measure.compare(side, side, rounds=50, seconds=1.0).rounds == 7
    assert measure.compare(side, side, rounds=50, seconds=20.5).rounds == 11
    assert measure.compare(side, side, rounds=9, seconds=1e9).rounds == 9


def test_short_sides_are_repeated_within_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    measure.compare(clock.side("a", lambda: 1e-4), clock.side("b", lambda: 1e-2), rounds=7, seconds=1000)
    assert clock.order.count("a") == pytest.approx(7 * 200, abs=10)
    assert clock.order.count("b") == pytest.approx(7 * 2, abs=4)


def test_sides_that_the_clock_can_not_see_divide_nothing_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_ROUND_S", 1e-5)
    clock = Clock(monkeypatch)
    found = measure.compare(clock.side("a", lambda: 0.0), clock.side("b", lambda: 0.0))
    assert found.ratio == 1
    assert not found.faster


def test_the_median_of_the_rounds_is_reported_not_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    times = iter([0.1] * 3 + [0.1, 0.1, 5.0, 0.1, 0.1, 0.1, 0.1])  # two to warm up, one to count the repeats
    found = measure.compare(clock.side("a", lambda: next(times)), clock.side("b", lambda: 0.1), rounds=7, seconds=99)
    assert found.base_ms == pytest.approx(statistics.median([100.0] * 6 + [5000.0]))
    assert found.ratio == pytest.approx(1)
