"""The search for the fastest quantised candidate inside the accuracy budget: cheap steps first, and no further than needed.

1. Every placement is measured against float, where this machine can run the target; what is slower is out.
2. From the fastest on: each range method on the first base, the best of them on the other bases, then biases corrected and weights
   rounded with compensation on the best so far.
3. If none fits, the best goes up the ladder: forms of its products, float among them, in the order of error removed per work added
   (see ``climb``). Where there is no choice of forms, layers are reverted to float in that order, as few as do.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from edgebuild.errors import IncompatibleError, InternalError, ModelError
from edgebuild.graph.io import load_model
from edgebuild.quantize.candidate import prepare, write_candidate
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.placements import Placement
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.ranges import RangeMethod
from edgebuild.select.bases import Base
from edgebuild.select.budget import Budget, violations
from edgebuild.select.climb import climb
from edgebuild.select.measure import Comparison
from edgebuild.select.reverting import Tools, revert
from edgebuild.select.trials import Outcome, Trial, merit, noise_share
from edgebuild.select.workbench import Workbench
from edgebuild.targets.spec import QuantizationScheme

_Found = TypeVar("_Found")

METHODS: tuple[RangeMethod, ...] = ("mse", "minmax", "percentile", "entropy")
"""In the order in which they are tried: measured best first."""

_SEARCH_BATCHES = 32
"""Batches that the steps of the search look at; what is chosen is judged by all."""

_ABOUT_AS_FAST = 0.9
"""Part of the fastest candidate's speed: what a more accurate one saves in reverted layers is worth more than the rest."""

_STARTS = 2
"""Candidates that layers are reverted of: the fastest one is not always the fastest with as many layers reverted as it needs."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the search works on.

    Args:
        graph: The float graph.
        placements: From ``quantize.placements``.
        bases: The plain graph first; the others are made when they are first needed; None: there is nothing to do there.
        tables: Embedding tables that every candidate has as integers.
        measurable: Whether this machine can run the target, so that speed can be measured.
        evaluations: How many candidates may be judged for accuracy, the final one apart.
    """

    graph: Path
    placements: Sequence[Placement]
    bases: Sequence[Callable[[], Base | None]]
    scheme: QuantizationScheme
    forms: Forms
    budget: Budget
    measurable: bool
    evaluations: int
    folder: Path
    tables: frozenset[str] = frozenset()
    progress: Callable[[str], None] = field(default=lambda text: None)


def search(problem: Problem, workbench: Workbench) -> Outcome:
    """Finds the fastest candidate that fits. Each candidate's file is gone when the next is made."""
    return _Search(problem, workbench).run()


class _Search:
    def __init__(self, problem: Problem, workbench: Workbench) -> None:
        self.problem = problem
        self.workbench = workbench
        self.trials: list[Trial] = []
        self.left = problem.evaluations
        self.bases: dict[int, Base | None] = {}
        self.begun = time.monotonic()

    def run(self) -> Outcome:
        if not self.problem.placements:
            return self.nothing("the model has no layer whose weights could be quantised")
        speeds = self.speeds()
        running = [p for p in self.problem.placements if not self.problem.measurable or p.name in speeds]
        if not running:
            return self.nothing(f"no quantised form runs: {'; '.join(self.trials[-1].violations)}")
        usable = [p for p in running if not _slow(speeds.get(p.name))]
        if not usable:
            best = max(speeds.values(), key=lambda c: c.ratio)
            return self.nothing(
                f"every quantised form is slower than float here: the best runs at {best.ratio:.2f} times its speed"
            )
        usable.sort(key=lambda p: -speeds[p.name].ratio if p.name in speeds else 0.0)
        usable = _distinct(usable, speeds)
        for placement in usable:
            for trial in self.judged(placement, speeds.get(placement.name)):
                if trial.fits and (final := self.confirm(trial)) is not None:
                    return Outcome(chosen=final, trials=tuple(self.trials))
        found = self.mended_best(speeds)
        return self.nothing(self.why_not()) if found is None else Outcome(chosen=found, trials=tuple(self.trials))

    def nothing(self, reason: str) -> Outcome:
        return Outcome(chosen=None, trials=tuple(self.trials), reason=reason)

    def speeds(self) -> dict[str, Comparison]:
        if not self.problem.measurable:
            return {}
        speeds = {}
        for placement in self.problem.placements:
            self.problem.progress(f"speed of {placement.name}")
            trial = self.trial(placement, 0, "minmax")
            try:
                path = self.write(trial)
                trial = replace(trial, made_s=self.elapsed())
                speeds[placement.name] = self.workbench.compare(path, rounds=9, seconds=2.0)
            except (InternalError, ModelError, IncompatibleError) as error:
                # What the engine refuses is no candidate; the others may be fine.
                self.trials.append(replace(trial, violations=(f"it does not run: {error.message}",)))
                continue
            self.trials.append(replace(trial, speed=speeds[placement.name]))
        return speeds

    def judged(self, placement: Placement, speed: Comparison | None) -> Iterator[Trial]:
        """Trials of a placement, from cheap to dear, judged one by one while evaluations are left."""
        best: Trial | None = None
        for index in range(len(self.problem.bases)):
            if self.base(index) is None:
                continue
            for method in self.methods(placement, best):
                if self.short():
                    return
                trial = self.judge(replace(self.trial(placement, index, method), speed=speed))
                yield trial
                if trial.fits:
                    return
                best = _better(best, trial)
        for improve in (self.corrected, self.rounded):
            if best is None or self.short():
                return
            if improve == self.rounded and self.base_of(best).tuned is not None:
                return  # what is rounded is chosen first
            improved = improve(best)
            if improved is not None:
                trial = self.judge(improved)
                yield trial
                if trial.fits:
                    return
                best = _better(best, trial)

    def methods(self, placement: Placement, best: Trial | None) -> Sequence[RangeMethod]:
        """Range methods worth trying: which is best shows on the first base of the first static placement."""
        if "static" not in placement.modes.values():
            return METHODS[:1]
        if best is None:
            known = [
                t for t in self.trials if t.method is not None and t.score is not None and t.placement != placement.name
            ]
            best = max(known, key=lambda t: merit(t.score), default=None)  # type: ignore[arg-type]
        return METHODS if best is None or best.method is None else (best.method,)

    def short(self) -> bool:
        """Whether what is left is for reverting layers."""
        return self.left <= self.problem.evaluations // 3

    def corrected(self, trial: Trial) -> Trial | None:
        """With what rounding shifts taken off the biases."""
        make = self.base_of(trial).means
        kept = _of_plan(trial.plan, make() if make is not None else {})
        return _changed(trial, "biases corrected", replace(trial.plan, means=kept)) if kept else None

    def rounded(self, trial: Trial) -> Trial | None:
        """With weights that make up for each other's rounding."""
        make = self.base_of(trial).roundings
        kept = _of_plan(trial.plan, make() if make is not None else {})
        return _changed(trial, "compensated rounding", replace(trial.plan, roundings=kept)) if kept else None

    def base_of(self, trial: Trial) -> Base:
        return next(base for base in self.bases.values() if base is not None and base.name == trial.base)

    def base(self, index: int) -> Base | None:
        if index not in self.bases:
            self.bases[index] = self.problem.bases[index]()
        return self.bases[index]

    def trial(self, placement: Placement, index: int, method: RangeMethod) -> Trial:
        base = self.base(index)
        assert base is not None
        static = "static" in placement.modes.values()
        words = [placement.name, *([base.name] if base.name != "plain" else []), *([method] if static else [])]
        return Trial(
            name=", ".join(words),
            placement=placement.name,
            base=base.name,
            method=method if static else None,
            plan=Plan(
                modes={name: _mode(name, mode, base) for name, mode in placement.modes.items()},
                operators=placement.operators,
                ranges=base.ranges().ranges(method) if static else {},
                smoothing=base.smoothing,
                equalization=base.equalization,
                tables=self.problem.tables,
            ),
        )

    def write(self, trial: Trial) -> Path:
        path = self.problem.folder / "candidate.onnx"
        return write_candidate(self.problem.graph, trial.plan, self.problem.scheme, self.problem.forms, path)

    def elapsed(self) -> float:
        return round(time.monotonic() - self.begun, 3)

    def judge(self, trial: Trial, *, limit: int | None = _SEARCH_BATCHES) -> Trial:
        self.problem.progress(f"accuracy of {trial.name}")
        self.left -= 1
        try:
            path = self.write(trial)
            trial = replace(trial, made_s=self.elapsed())
            score = self.workbench.score(path, limit=limit)
        except (InternalError, ModelError, IncompatibleError) as error:
            self.trials.append(replace(trial, violations=(f"it does not run: {error.message}",)))
            return self.trials[-1]
        judged = replace(trial, score=score, violations=violations(score, self.problem.budget))
        self.trials.append(judged)
        return judged

    def confirm(self, trial: Trial) -> Trial | None:
        """All held-out data, and the speed with enough rounds for a statement; None: it does not hold."""
        path = self.write(trial)
        score = self.workbench.score(path)
        broken = violations(score, self.problem.budget)
        speed = self.workbench.compare(path) if self.problem.measurable and not broken else trial.speed
        final = replace(trial, score=score, violations=broken, speed=speed)
        self.trials.append(final)
        return final if final.fits and not _slow(speed) else None

    def mended_best(self, speeds: Mapping[str, Comparison]) -> Trial | None:
        """The fastest of what the most promising candidates become with other forms, or layers reverted."""
        best: Trial | None = None
        climbed: list[set[str]] = []
        for start in self.promising(speeds)[:_STARTS]:
            unreverted = speeds.get(start.placement)
            if best is not None and best.speed is not None:
                if unreverted is not None and unreverted.ratio <= best.speed.ratio:
                    continue  # it can only get slower
                if self.base_of(start).tuned is not None and set(start.plan.modes) in climbed:
                    continue  # up the same ladder
            final = self.mended(start)
            if final is None:
                continue
            climbed.append(set(start.plan.modes))
            if best is None or (
                best.speed is not None and final.speed is not None and final.speed.ratio > best.speed.ratio
            ):
                best = final
        return best

    def promising(self, speeds: Mapping[str, Comparison]) -> list[Trial]:
        """The best-scored trial of each placement: of those that are about as fast as the fastest the most accurate first."""
        best: dict[str, Trial] = {}
        for trial in self.trials:
            if trial.score is None or trial.fits:
                continue
            other = best.get(trial.placement)
            if other is None or other.score is None or merit(trial.score) > merit(other.score):
                best[trial.placement] = trial
        fastest = max((speeds[t.placement].ratio for t in best.values() if t.placement in speeds), default=1.0)

        def rank(trial: Trial) -> tuple[bool, float, float]:
            speed = speeds[trial.placement].ratio if trial.placement in speeds else fastest
            near = speed >= _ABOUT_AS_FAST * fastest
            assert trial.score is not None
            return not near, noise_share(trial.score) if near else -speed, -speed

        return sorted(best.values(), key=rank)

    def mended(self, start: Trial) -> Trial | None:
        """With the cheapest change of forms that does; where there is no choice of forms, with as few layers in float as do."""
        base = self.base_of(start)
        return (
            revert(start, self.tools()) if base.tuned is None else climb(start, base.tuned, base.shared, self.tools())
        )

    def tools(self) -> Tools:
        """For a climb."""

        def confirm(trial: Trial) -> tuple[Trial | None, bool]:
            final = self.confirm(trial)
            return final, self.trials[-1].fits

        return Tools(
            judge=self.judge,
            confirm=confirm,
            noise=self.noise,
            left=lambda: self.left,
            layers=self.layers,
            budget=self.problem.budget,
            progress=self.problem.progress,
        )

    def noise(self, plan: Plan) -> float:
        """Over the signal, on a few batches."""
        path = self.problem.folder / "candidate.onnx"
        write_candidate(self.problem.graph, plan, self.problem.scheme, self.problem.forms, path)
        return noise_share(self.workbench.score(path, limit=4, evaluate=False))

    @cached_property
    def layers(self) -> dict[str, Layer]:
        model = load_model(self.problem.graph)
        prepare(model)
        return {layer.name: layer for layer in find_layers(model.graph)}

    def why_not(self) -> str:
        # What fits in the search and not on all data does not fit: the last word on each candidate counts.
        judged = list({trial.name: trial for trial in self.trials if trial.score is not None}.values())
        fits = [trial for trial in judged if trial.fits]
        if fits:
            return f"{fits[-1].name} fits the budget but is slower than float"
        best = max(judged, key=lambda t: merit(t.score))  # type: ignore[arg-type]
        return f"nothing fits the accuracy budget; the nearest is {best.name}: {'; '.join(best.violations)}"


def _distinct(placements: Sequence[Placement], speeds: Mapping[str, Comparison]) -> list[Placement]:
    """Without those that quantise a part of what another does and gain almost nothing over float: judging them wastes evaluations."""
    if not speeds:
        return list(placements)
    best = speeds[placements[0].name].ratio
    gains = {p.name: speeds[p.name].ratio - 1 for p in placements}
    return [p for p in placements if p is placements[0] or gains[p.name] >= _WORTHWHILE * (best - 1) > 0]


_WORTHWHILE = 0.3
"""Part of the fastest placement's gain below which another one is no alternative to reverting some of the fastest's layers."""


def _slow(speed: Comparison | None) -> bool:
    """Whether a candidate may not ship: it is slower than float beyond noise."""
    return speed is not None and speed.slower


def _mode(name: str, mode: Mode, base: Base) -> Mode:
    return base.modes.get(name, mode) if mode in ("static", "dynamic") else mode


def _of_plan(plan: Plan, found: Mapping[str, _Found]) -> dict[str, _Found]:
    """What was found for layers that the plan quantises."""
    return {name: value for name, value in found.items() if name in plan.modes}


def _changed(trial: Trial, words: str, plan: Plan) -> Trial:
    return replace(trial, name=f"{trial.name}, {words}", plan=plan)


def _better(one: Trial | None, other: Trial) -> Trial | None:
    """The one with the better score; what did not run has none."""
    if other.score is None or (one is not None and one.score is not None and merit(one.score) >= merit(other.score)):
        return one
    return other
