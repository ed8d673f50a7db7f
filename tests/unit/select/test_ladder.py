"""The ladder: what its rungs are, and that the cheapest one that fits is found."""

import itertools

import numpy as np
import pytest

from edgebuild.quantize.product_forms import Form
from edgebuild.select.ladder import Choice, Prediction, Rung, Unit, cheapest, hull, rungs

FLOAT = Form(alpha=0.0, mode="float", split=None, noise=0.0, work=0.0)


def choice(noise: float, work: float, *, is_float: bool = False) -> Choice:
    return Choice(noise=noise, work=work, form=FLOAT if is_float else None)


def unit(name: str, *choices: Choice, work: float = 100.0) -> Unit:
    return Unit(name=name, layers=(name,), work=work, choices=choices)


def units_by_chance(seed: int, count: int = 5) -> list[Unit]:
    random = np.random.default_rng(seed)
    return [
        unit(
            f"u{index}",
            *(choice(float(n), float(w)) for n, w in random.uniform(0.01, 1, (int(random.integers(1, 7)), 2))),
            choice(0.0, 2.4, is_float=True),
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_noise_falls_and_work_rises_from_rung_to_rung(seed: int) -> None:
    ladder = rungs(units_by_chance(seed), rest=0.1)
    for lower, upper in itertools.pairwise(ladder):
        assert upper.noise < lower.noise
        assert upper.work > lower.work
        changed = [name for name in lower.choices if lower.choices[name] != upper.choices[name]]
        assert len(changed) == 1
    for rung in ladder:
        assert rung.noise == pytest.approx(0.1 + sum(c.noise for c in rung.choices.values()))
        assert not all(c.is_float for c in rung.choices.values())


@pytest.mark.parametrize("seed", range(20))
def test_every_price_of_work_is_best_paid_on_a_rung(seed: int) -> None:
    """Against trying all forms of all units."""
    units = units_by_chance(seed, count=3)
    ladder = rungs(units)
    everything = [
        (sum(c.noise for c in chosen), sum(c.work for c in chosen))
        for chosen in itertools.product(*(u.choices for u in units))
        if not all(c.is_float for c in chosen)
    ]
    for price in (10.0, 1.0, 0.3, 0.1):
        best = min(noise + price * work for noise, work in everything)
        assert min(rung.noise + price * rung.work for rung in ladder) == pytest.approx(best)


def test_what_nobody_hears_keeps_its_cheapest_form() -> None:
    deaf = unit("deaf", choice(0.0, 3.0), choice(0.0, 1.0), choice(0.0, 240.0, is_float=True))
    heard = unit("heard", choice(0.4, 0.0), choice(0.1, 5.0), choice(0.0, 240.0, is_float=True))
    for rung in rungs([deaf, heard]):
        assert rung.choices["deaf"].work == 1.0


def test_a_form_that_others_together_beat_is_on_no_rung() -> None:
    between = choice(0.9, 2.0)
    assert between not in hull([choice(1.0, 0.0), between, choice(0.1, 3.0)])
    assert hull([choice(1.0, 1.0), choice(0.5, 1.0)]) == [choice(0.5, 1.0)]


def test_no_rung_has_everything_in_float() -> None:
    assert rungs([unit("deaf", choice(0.0, 1.0, is_float=True))]) == []


def ladder_of(count: int) -> list[Rung]:
    return [Rung(choices={}, noise=float(count - index), work=float(index)) for index in range(count)]


class Judge:
    def __init__(self, first: int) -> None:
        self.first, self.asked = first, []  # type: ignore[var-annotated]

    def __call__(self, index: int) -> tuple[int, bool]:
        self.asked.append(index)
        return index, index >= self.first


@pytest.mark.parametrize("first", [0, 1, 2, 17, 38, 39])
@pytest.mark.parametrize("guesses", [None, 0, 17, 39])
def test_the_cheapest_that_fits_is_found_wherever_the_guess_is(first: int, guesses: int | None) -> None:
    ladder, judge = ladder_of(40), Judge(first)
    found = cheapest(ladder, judge, lambda: guesses, lambda: 20 - len(judge.asked), 40.0)
    assert found is not None
    assert found.index == found.trial == first
    assert len(judge.asked) <= 4 + 6


def test_without_a_guess_the_cheapest_rung_is_tried_first() -> None:
    judge = Judge(0)
    assert cheapest(ladder_of(40), judge, lambda: None, lambda: 9, 40.0) is not None
    assert judge.asked == [0]


@pytest.mark.parametrize("allowed", [0, 1, 2, 3, 5])
def test_no_more_are_judged_than_allowed(allowed: int) -> None:
    judge = Judge(99)
    assert cheapest(ladder_of(40), judge, lambda: None, lambda: allowed - len(judge.asked), 40.0) is None
    assert len(judge.asked) == allowed


def test_rungs_with_about_the_same_work_are_not_told_apart() -> None:
    judge = Judge(17)
    found = cheapest(ladder_of(40), judge, lambda: 20, lambda: 20 - len(judge.asked), 1e6)
    assert found is not None
    assert judge.asked == [20]


def test_a_prediction_follows_what_was_measured() -> None:
    ladder = ladder_of(10)  # noise 10 to 1
    prediction = Prediction(ladder, 2.0, 10.0)
    assert prediction.guess() == 5  # noise 5 is half of 10
    prediction.learn(4.0, 5.0)
    assert prediction.guess() == 9  # 1.25 would do, the last has 1
    prediction.learn(0.5, 5.0)
    assert prediction.guess() == 0
    prediction.learn(100.0, 5.0)
    assert prediction.guess() == 9  # nothing would do
    for excess in (None, float("inf"), 0.0):
        prediction.learn(excess, 5.0)
        assert prediction.guess() is None
