"""The search for the fastest quantised candidate inside the accuracy budget: cheap steps first, and no further than needed.

1. Every placement is measured against float, where this machine can run the target; what is slower is out.
2. From the fastest on: each range method on the plain graph, then on rewritten graphs (e.g. smoothed).
3. If none fits, the layers of the best are reverted to float in the order of error removed per work added, as few as do.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgebuild.errors import IncompatibleError, InternalError, ModelError
from edgebuild.graph.io import load_model
from edgebuild.quantize.candidate import RangeChooser, without, write_candidate
from edgebuild.quantize.insert import Forms
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.placements import Placement
from edgebuild.quantize.plan import Plan, Smoothing
from edgebuild.quantize.ranges import RangeMethod
from edgebuild.select.budget import Budget, Score, violations
from edgebuild.select.measure import Comparison
from edgebuild.select.workbench import Workbench
from edgebuild.targets.spec import QuantizationScheme

METHODS: tuple[RangeMethod, ...] = ("mse", "minmax", "percentile", "entropy")
"""In the order in which they are tried: measured best first."""

_SEARCH_BATCHES = 32
"""Batches that the steps of the search look at; what is chosen is judged by all."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """What candidates are made from: the float graph, or the float graph smoothed.

    Args:
        name: "plain", or what is done first, e.g. "smoothed 0.75".
        smoothing: That; None: nothing.
        ranges: Of the values that carry Q/DQ; made when static ranges are first needed.
    """

    name: str
    smoothing: Smoothing | None
    ranges: Callable[[], RangeChooser]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate that was made and judged.

    Args:
        name: Placement, rewriting and range method, in words.
        base: Name of its base.
        method: Range method of its static ranges; None: it has none.
        plan: What is quantised.
        score: On the data of the search; None: only its speed was looked at.
        violations: What is outside the budget.
        speed: Against float; None: not measured.
        reverted: Layers left float for the sake of accuracy.
    """

    name: str
    placement: str
    base: str
    method: RangeMethod | None
    plan: Plan
    score: Score | None = None
    violations: tuple[str, ...] = ()
    speed: Comparison | None = None
    reverted: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it was judged and is inside the budget."""
        return self.score is not None and not self.violations


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the search came to.

    Args:
        chosen: None: float is better, or nothing fits; ``reason`` says which and names the layers.
        trials: All that was tried, in order.
        reason: Why nothing was chosen; empty if something was.
    """

    chosen: Trial | None
    trials: tuple[Trial, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the search works on.

    Args:
        graph: The float graph.
        placements: From ``quantize.placements``.
        bases: The plain graph first; the others are made when they are first needed; None: there is nothing to do there.
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
        for start in self.promising(speeds):
            final = self.revert(start)
            if final is not None:
                return Outcome(chosen=final, trials=tuple(self.trials))
        return self.nothing(self.why_not())

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
                speeds[placement.name] = self.workbench.compare(self.write(trial), rounds=9, seconds=2.0)
            except (InternalError, ModelError, IncompatibleError) as error:
                # What the engine refuses is no candidate; the others may be fine.
                self.trials.append(replace(trial, violations=(f"it does not run: {error.message}",)))
                continue
            self.trials.append(replace(trial, speed=speeds[placement.name]))
        return speeds

    def judged(self, placement: Placement, speed: Comparison | None) -> Iterator[Trial]:
        """Trials of a placement, from cheap to dear, judged one by one while evaluations are left."""
        methods = METHODS if "static" in placement.modes.values() else METHODS[:1]
        for index in range(len(self.problem.bases)):
            if self.base(index) is None:
                continue
            for method in methods:
                if self.left <= self.problem.evaluations // 3:  # the rest is for reverting layers
                    return
                trial = self.judge(replace(self.trial(placement, index, method), speed=speed))
                yield trial
                if trial.fits:
                    return

    def base(self, index: int) -> Base | None:
        if index not in self.bases:
            self.bases[index] = self.problem.bases[index]()
        return self.bases[index]

    def trial(self, placement: Placement, index: int, method: RangeMethod) -> Trial:
        base = self.base(index)
        assert base is not None
        static = "static" in placement.modes.values()
        words = [placement.name, *([base.name] if index else []), *([method] if static else [])]
        return Trial(
            name=", ".join(words),
            placement=placement.name,
            base=base.name,
            method=method if static else None,
            plan=Plan(
                modes=placement.modes,
                operators=placement.operators,
                ranges=base.ranges().ranges(method) if static else {},
                smoothing=base.smoothing,
            ),
        )

    def write(self, trial: Trial) -> Path:
        path = self.problem.folder / "candidate.onnx"
        return write_candidate(self.problem.graph, trial.plan, self.problem.scheme, self.problem.forms, path)

    def judge(self, trial: Trial, *, limit: int | None = _SEARCH_BATCHES) -> Trial:
        self.problem.progress(f"accuracy of {trial.name}")
        self.left -= 1
        try:
            score = self.workbench.score(self.write(trial), limit=limit)
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
        speed = self.workbench.compare(path) if self.problem.measurable else None
        final = replace(trial, score=score, violations=violations(score, self.problem.budget), speed=speed)
        self.trials.append(final)
        return final if final.fits and not _slow(speed) else None

    def promising(self, speeds: Mapping[str, Comparison]) -> list[Trial]:
        """The best-scored trial of each placement, the fastest placement first."""
        best: dict[str, Trial] = {}
        for trial in self.trials:
            if trial.score is None or trial.fits:
                continue
            other = best.get(trial.placement)
            if other is None or other.score is None or _merit(trial.score) > _merit(other.score):
                best[trial.placement] = trial
        return sorted(best.values(), key=lambda t: -speeds[t.placement].ratio if t.placement in speeds else 0.0)

    def revert(self, start: Trial) -> Trial | None:
        """As few layers as do, the worst error per work first; the number is found by bisection."""
        if self.left <= 0:
            return None
        order = self.revert_order(start)
        low, high, found = 1, len(order) - 1, None
        while low <= high and self.left > 0:
            middle = (low + high) // 2
            trial = self.judge(self.reverted(start, order[:middle]))
            if trial.fits:
                found, high = trial, middle - 1
            else:
                low = middle + 1
        return None if found is None else self.confirm(found)

    def reverted(self, start: Trial, layers: Sequence[str]) -> Trial:
        name = f"{start.name}, {len(layers)} of {len(start.plan.modes)} layers float"
        return replace(
            start, name=name, plan=without(start.plan, frozenset(layers)), reverted=tuple(layers), speed=None
        )

    def revert_order(self, start: Trial) -> list[str]:
        """Layers by the noise that each adds alone, per multiplication that it would take back to float."""
        graph = load_model(self.problem.graph).graph
        work = {layer.name: layer.multiplications() or layer.weight_size for layer in find_layers(graph)}
        weight = {}
        for index, name in enumerate(start.plan.modes):
            self.problem.progress(f"error of layer {index + 1} of {len(start.plan.modes)}")
            alone = without(start.plan, frozenset(start.plan.modes) - {name})
            score = self.workbench.score(self.write(replace(start, plan=alone)), limit=4, evaluate=False)
            weight[name] = noise_share(score) / max(work[name], 1)
        return sorted(weight, key=lambda name: -weight[name])

    def why_not(self) -> str:
        # What fits in the search and not on all data does not fit: the last word on each candidate counts.
        judged = list({trial.name: trial for trial in self.trials if trial.score is not None}.values())
        fits = [trial for trial in judged if trial.fits]
        if fits:
            return f"{fits[-1].name} fits the budget but is slower than float"
        best = max(judged, key=lambda t: _merit(t.score))  # type: ignore[arg-type]
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


def noise_share(score: Score) -> float:
    """Noise over signal, of the worst output."""
    return 10 ** (-score.sqnr_db / 10) if math.isfinite(score.sqnr_db) else (0.0 if score.sqnr_db > 0 else math.inf)


def _slow(speed: Comparison | None) -> bool:
    """Whether a candidate may not ship: it is slower than float beyond noise."""
    return speed is not None and speed.slower


def _merit(score: Score) -> tuple[float, float]:
    if score.value is not None:
        return score.value, score.sqnr_db
    agreements = [output.agreement for output in score.outputs if output.agreement is not None]
    return min(agreements, default=1.0), score.sqnr_db
