"""The ladder: candidates of a placement from the cheapest to the most accurate, each with one more change of form that pays.

Every unit (the products that read one activation, or a single other layer) may have several forms, each with the noise that it leaves at
the model's outputs and the work that it takes. Minimising ``noise + price * work`` for falling prices picks the lower convex hull of each
unit's forms; the steps of all hulls, in the order of noise removed per work added, are the ladder. Noise of different units adds up.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgebuild.quantize.product_forms import Form

_GUESSES = 4
"""Rungs that a prediction may pick; then halves are."""

_SAME_WORK = 0.004
"""Rungs between which there is less than this part of the work are not worth telling apart."""

_Tried = TypeVar("_Tried")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One form of a unit.

    Args:
        noise: That it adds to the model's outputs, over the signal.
        work: What it takes more than the plainest form, in multiplications of an integer product in one run.
        form: None: as it is at the start.
    """

    noise: float
    work: float
    form: Form | None = None

    @property
    def is_float(self) -> bool:
        """Whether its layers stay float."""
        return self.form is not None and self.form.mode == "float"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Layers whose form is chosen together.

    Args:
        name: Of the activation that they read, or of the one layer.
        layers: Names.
        work: Multiplications in one run.
        choices: Its forms.
    """

    name: str
    layers: tuple[str, ...]
    work: float
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A candidate.

    Args:
        choices: The form of each unit, by its name.
        noise: Predicted, over the signal.
        work: See ``Choice``; of all units.
    """

    choices: Mapping[str, Choice]
    noise: float
    work: float


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """Those that are best at some price of work, from the cheapest to the most accurate."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.work, c.noise)):
        if found and choice.noise >= found[-1].noise:
            continue
        while len(found) > 1 and _gain(found[-2], found[-1]) <= _gain(found[-2], choice):
            found.pop()
        found.append(choice)
    return found


def rungs(units: Sequence[Unit], rest: float = 0.0) -> list[Rung]:
    """The ladder; noise falls and work rises from rung to rung. The last one still has a layer that is quantised.

    Args:
        units: All that are quantised at the start.
        rest: Noise that no form takes away.
    """
    hulls = {unit.name: hull(unit.choices) for unit in units}
    steps = [
        (-_gain(before, after), order, unit.name, after)
        for order, unit in enumerate(units)
        for before, after in zip(hulls[unit.name], hulls[unit.name][1:], strict=False)
    ]
    chosen = {name: found[0] for name, found in hulls.items()}
    ladder = [_rung(chosen, rest)]
    for _, _, name, choice in sorted(steps, key=lambda step: step[:2]):
        chosen[name] = choice
        ladder.append(_rung(chosen, rest))
    return [rung for rung in ladder if not all(choice.is_float for choice in rung.choices.values())]


def _gain(before: Choice, after: Choice) -> float:
    """Noise removed per work added."""
    work = after.work - before.work
    return (before.noise - after.noise) / work if work > 0 else math.inf


def _rung(chosen: Mapping[str, Choice], rest: float) -> Rung:
    return Rung(
        choices=dict(chosen),
        noise=rest + sum(choice.noise for choice in chosen.values()),
        work=sum(choice.work for choice in chosen.values()),
    )


class Prediction:
    """Which rung may be the cheapest inside the budget, from those that were judged.

    Args:
        ladder: Rungs, from the cheapest on.
        excess: Noise over what the budget allows, of a candidate with ``noise`` predicted; None: noise does not decide.
        noise: Predicted, of that candidate.
    """

    def __init__(self, ladder: Sequence[Rung], excess: float | None, noise: float) -> None:
        self._ladder = ladder
        self._factor: float | None = None
        self.learn(excess, noise)

    def learn(self, excess: float | None, noise: float) -> None:
        """Corrects itself by what was measured last."""
        known = excess is not None and math.isfinite(excess) and excess > 0 and noise > 0
        self._factor = excess / noise if excess is not None and known else None

    def guess(self) -> int | None:
        """The first rung that should be inside the budget, else the last; None: nothing is known."""
        factor = self._factor
        if factor is None:
            return None
        inside = (index for index, rung in enumerate(self._ladder) if rung.noise * factor <= 1)
        return next(inside, len(self._ladder) - 1)


@dataclass(frozen=True, kw_only=True)
class Found(Generic[_Tried]):
    """The cheapest rung that was found inside the budget."""

    index: int
    trial: _Tried


def cheapest(
    ladder: Sequence[Rung],
    judge: Callable[[int], tuple[_Tried, bool]],
    guess: Callable[[], int | None],
    left: Callable[[], int],
    total: float,
) -> Found[_Tried] | None:
    """The cheapest rung that fits: first as predicted, then by halves.

    Args:
        ladder: Rungs, from the cheapest on.
        judge: Tries one and says whether it fits.
        guess: Which may be the one; None: nothing is known, then the first rung is tried first.
        left: How many may still be judged.
        total: Work of all units, by which differences count.
    """
    low, high, tried = -1, len(ladder), 0
    found: Found[_Tried] | None = None
    while high - low > 1 and left() > 0:
        if found is not None and ladder[high].work - ladder[low + 1].work < _SAME_WORK * total:
            break
        wanted = guess() if tried < _GUESSES else None
        if wanted is None:
            wanted = 0 if tried == 0 else (low + high) // 2
            if found is None and left() == 1:
                wanted = (low + 3 * high) // 4  # the last one should better fit
        index = min(max(wanted, low + 1), high - 1)
        trial, fits = judge(index)
        tried += 1
        if fits:
            found, high = Found(index=index, trial=trial), index
        else:
            low = index
    return found
