"""Climbing the ladder: how much each activation's noise is heard at the outputs is measured, then the cheapest rung that fits is found."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from statistics import median

from edgebuild.quantize.candidate import without
from edgebuild.quantize.copies import Split
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.product_forms import FLOAT, Form, float_form
from edgebuild.quantize.tune import Tuned
from edgebuild.select.budget import Score, excess
from edgebuild.select.ladder import Choice, Prediction, Rung, Unit, cheapest, rungs
from edgebuild.select.reverting import Tools
from edgebuild.select.roundings import SharedRoundings
from edgebuild.select.trials import Trial

MEASURED = 96
"""Activations whose noise is measured, those with the largest estimate first; the others are taken to be heard as the median of these."""

_MOST_NOISE = 1e6
"""Over the signal: what an output that is not finite counts as."""

_ROUNDING_LEAVES = 0.8
"""What compensated rounding leaves of the noise: it takes 1 dB."""


def climb(start: Trial, tuned: Tuned, roundings: SharedRoundings | None, tools: Tools) -> Trial | None:
    """The cheapest candidate that fits, confirmed; None: there is none.

    Args:
        start: Judged; smoothed with the cheap forms of ``tuned``.
        tuned: Forms of the activations.
        roundings: None: weights are rounded to the nearest.
        tools: What the search lends.
    """
    if tools.left() <= 0 or start.score is None:
        return None
    return _Climb(start, start.score, tuned, roundings, tools).run()


class _Climb:
    def __init__(
        self, start: Trial, score: Score, tuned: Tuned, roundings: SharedRoundings | None, tools: Tools
    ) -> None:
        self.start, self.score, self.tuned, self.roundings, self.tools = start, score, tuned, roundings, tools
        self.cheap = tuned.cheap()

    def run(self) -> Trial | None:
        bare = replace(self.start.plan, modes={}, means={}, roundings={})
        rest = self.noise(bare) if bare.tables else 0.0
        units = self.units(rest)
        ladder = rungs(units, rest)
        if not ladder:
            return None
        over = excess(self.score, self.tools.budget)
        if over is not None and self.roundings is not None and not self.start.plan.roundings:
            over *= _ROUNDING_LEAVES
        prediction = Prediction(ladder, over, rest + sum(unit.choices[0].noise for unit in units))

        def judge(index: int) -> tuple[Trial, bool]:
            trial = self.tools.judge(self.trial(ladder[index], units))
            if trial.score is not None:
                prediction.learn(excess(trial.score, self.tools.budget), ladder[index].noise)
            return trial, trial.fits

        total = sum(unit.work for unit in units)
        found = cheapest(ladder, judge, prediction.guess, self.tools.left, total)
        if found is None:
            return None
        index, trial = found.index, found.trial
        while True:
            final, fits = self.tools.confirm(self.completed(trial))
            # What just fits on the data of the search may just not fit on all.
            index += 1 + len(ladder) // 24
            if final is not None or fits or index >= len(ladder):
                return final
            trial = self.trial(ladder[index], units)

    def noise(self, plan: Plan) -> float:
        return min(self.tools.noise(plan), _MOST_NOISE)

    def units(self, rest: float) -> list[Unit]:
        """All that the start quantises, with measured noise; the first choice of each is what it is at the start."""
        modes = self.start.plan.modes
        groups = {
            name: layers
            for name in self.tuned.forms
            if (layers := tuple(layer.name for layer in self.tuned.products[name] if layer.name in modes))
        }
        grouped = {layer for layers in groups.values() for layer in layers}
        singles = [name for name in modes if name not in grouped]
        by_estimate = sorted(groups, key=lambda name: -self.cheap[name].noise)
        measured: dict[str, float] = {}
        for index, name in enumerate(by_estimate[:MEASURED]):
            self.tools.progress(f"error of activation {index + 1} of {min(len(groups), MEASURED)}")
            measured[name] = self.alone(groups[name], rest)
        heard = [noise / self.cheap[name].noise for name, noise in measured.items() if self.cheap[name].noise > 0]
        for name in by_estimate[MEASURED:]:
            measured[name] = self.cheap[name].noise * (median(heard) if heard else 1.0)
        units = [self.products(name, groups[name], measured[name]) for name in groups]
        for index, name in enumerate(singles):
            self.tools.progress(f"error of layer {index + 1} of {len(singles)}")
            work = self.work(name, 1.0)
            choices = (
                Choice(noise=self.alone((name,), rest), work=0.0),
                Choice(noise=0.0, work=FLOAT * work, form=_FLOAT_LAYER),
            )
            units.append(Unit(name=name, layers=(name,), work=work, choices=choices))
        return units

    def alone(self, layers: Collection[str], rest: float) -> float:
        """Noise of some layers without that of all others."""
        return max(0.0, self.noise(without(self.start.plan, frozenset(self.start.plan.modes) - set(layers))) - rest)

    def work(self, layer: str, rows: float) -> float:
        """Multiplications of a layer in one run; where these are not known before, as of so many rows."""
        found = self.tools.layers[layer]
        return float(found.multiplications() or found.weight_size * rows)

    def products(self, name: str, layers: tuple[str, ...], measured: float) -> Unit:
        """The products that read one activation."""
        per_row = sum(self.tools.layers[layer].weight_size for layer in layers)
        total = sum(self.work(layer, self.tuned.rows[name]) for layer in layers)
        rows, present = total / per_row, self.cheap[name]
        static = any(self.start.plan.modes[layer] == "static" for layer in layers)
        choices = [Choice(noise=measured, work=rows * present.work)]
        for form in self.tuned.forms[name]:
            # The same with a range of each run, in place of one measured before, takes more time and gives about the same.
            if form != present and not (static and (form.mode, form.alpha, form.split) == _plain(present)):
                noise = measured * (form.noise / present.noise if present.noise > 0 else 1.0)
                choices.append(Choice(noise=noise, work=rows * form.work, form=form))
        left_float = float_form(present, per_row)
        choices.append(Choice(noise=0.0, work=rows * left_float.work, form=left_float))
        return Unit(name=name, layers=layers, work=total, choices=tuple(choices))

    def trial(self, rung: Rung, units: Sequence[Unit]) -> Trial:
        """The candidate, weights rounded for the judged scheme."""
        old = self.start.plan
        modes: dict[str, Mode] = dict(old.modes)
        assert old.smoothing is not None
        alphas, splits, means = dict(old.smoothing.alphas), dict(old.smoothing.splits), dict(old.means)
        for unit in units:
            form = rung.choices[unit.name].form
            if form is None:
                continue
            for layer in unit.layers:
                means.pop(layer, None)  # they are of the channels as they were prepared at the start
                if form.mode == "float":
                    del modes[layer]
                else:
                    modes[layer] = form.mode
            if form.mode != "float":
                alphas[unit.name] = form.alpha
                splits.pop(unit.name, None)
                if form.split is not None:
                    splits[unit.name] = form.split
        smoothing = replace(old.smoothing, alphas=alphas, splits=splits)
        plan = replace(old, modes=modes, smoothing=smoothing, means=means, roundings={})
        return replace(
            self.start,
            name=self.named(plan),
            plan=self.rounded(plan),
            reverted=tuple(name for name in old.modes if name not in modes),
            score=None,
            violations=(),
            speed=None,
            made_s=None,
        )

    def named(self, plan: Plan) -> str:
        method = [self.start.method] if self.start.method is not None else []
        words = [self.start.placement, *method, "forms by sensitivity"]
        left = len(self.start.plan.modes) - len(plan.modes)
        words += [f"{left} of {len(self.start.plan.modes)} layers float"] if left else []
        assert plan.smoothing is not None
        read = {name for name in self.tuned.forms if any(p.name in plan.modes for p in self.tuned.products[name])}
        counts = {
            "blockwise": plan.count("blockwise"),
            "rows scaled": plan.count("rowwise"),
            "in two terms": plan.count("two_terms"),
            "split": len(read & set(plan.smoothing.splits)),
        }
        return ", ".join([*words, *(f"{count} {word}" for word, count in counts.items() if count)])

    def rounded(self, plan: Plan) -> Plan:
        return plan if self.roundings is None else replace(plan, roundings=self.roundings.judged(plan))

    def completed(self, trial: Trial) -> Trial:
        """With roundings for all schemes."""
        if self.roundings is None:
            return trial
        return replace(trial, plan=replace(trial.plan, roundings=self.roundings.all_schemes(trial.plan)))


_FLOAT_LAYER = Form(alpha=0.0, mode="float", split=None, noise=0.0, work=0.0)


def _plain(present: Form) -> tuple[str, float, Split | None]:
    return "dynamic", present.alpha, present.split
