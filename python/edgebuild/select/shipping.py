"""What was chosen, written for every scheme of the target; where it does not hold there, something that does is looked for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgebuild.export.result import ExportedModel
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.schemes import SchemeGroup
from edgebuild.select.bases import Base
from edgebuild.select.budget import Score, violations
from edgebuild.select.search import Problem, search
from edgebuild.select.tolerances import GoldenFit, golden_fit
from edgebuild.select.trials import Outcome, Trial
from edgebuild.select.workbench import Workbench
from edgebuild.targets.spec import QuantizationScheme

_LEAST = 8
"""Candidates that another search may judge at least; it has half of what the first had."""

MakersFor = Callable[[QuantizationScheme], Sequence[Callable[[], Base | None]]]
"""The bases of candidates under a scheme; see ``Problem.bases``."""


@dataclass(frozen=True, kw_only=True)
class QuantizedGraph:
    """A quantised graph that is inside the budget.

    Args:
        group: The schemes that it serves.
        plan: What is quantised in it.
        graph: The file.
        goldens: How it meets them.
        judged: Whether it is the one that the search measured, on a CPU that it is meant for.
        score: On all held-out data, by the build machine's kernels; None: replayed.
    """

    group: SchemeGroup
    plan: Plan
    graph: Path
    goldens: GoldenFit
    judged: bool
    score: Score | None = None


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What may ship.

    Args:
        graphs: Best first.
        searches: Those for groups where what was chosen did not hold, by suffix.
        left_out: Why a group has nothing, a clause each.
    """

    graphs: tuple[QuantizedGraph, ...]
    searches: Mapping[str, Outcome]
    left_out: tuple[str, ...]


def ship(
    chosen: Trial,
    groups: Sequence[SchemeGroup],
    judged: SchemeGroup,
    problem: Problem,
    bases_for: MakersFor,
    bench: Workbench,
    exported: ExportedModel,
    open_graph: OpenGraph,
    features: Collection[str],
) -> Shipped:
    """Writes ``int8SUFFIX.onnx`` for each group of schemes, all inside the budget.

    Args:
        chosen: By the search, confirmed.
        groups: Of the target.
        judged: The one that the search was for.
        problem: Of that search.
        bases_for: For a search under another scheme.
        bench: Scores candidates.
        exported: Has the goldens.
        open_graph: How a graph is run.
        features: Of this machine's CPU; empty: it can't run the target.
    """
    graphs: list[QuantizedGraph] = []
    searches: dict[str, Outcome] = {}
    left_out: list[str] = []
    for group in groups:
        trial = chosen
        path, score = _written(group, trial, problem, bench, known=group is judged)
        broken = violations(score, problem.budget)
        # Weights of 7 bits make twice the noise, so what just fits with 8 does not: other layers have to stay in float. What this
        # CPU saturates on can't be judged here.
        if broken and group is not judged and group.runs_on(features):
            problem.progress(f"for {_who(group, groups)}")
            searches[group.suffix] = again = search(_for_scheme(problem, group.scheme, chosen, bases_for), bench)
            if again.chosen is None:
                broken = (again.reason,)
            else:
                trial = again.chosen
                path, score = _written(group, trial, problem, bench, known=True)
                broken = violations(score, problem.budget)
        if broken:
            left_out.append(f"not for {_who(group, groups)}: {'; '.join(broken)}")
            for file in (path, path.with_name(path.name + ".data")):  # the folder is kept in the cache
                file.unlink(missing_ok=True)
            continue
        goldens = golden_fit(exported, path, open_graph)
        graphs.append(
            QuantizedGraph(
                group=group, plan=trial.plan, graph=path, goldens=goldens, judged=group is judged, score=score
            )
        )
    return Shipped(graphs=tuple(graphs), searches=searches, left_out=tuple(left_out))


def _written(
    group: SchemeGroup, trial: Trial, problem: Problem, bench: Workbench, *, known: bool
) -> tuple[Path, Score]:
    """The file and its score on all data; ``known``: the trial has it."""
    path = problem.folder / f"int8{group.suffix}.onnx"
    path = write_candidate(problem.graph, trial.plan, group.scheme, problem.forms, path)
    return path, trial.score if known and trial.score is not None else bench.score(path)


def _for_scheme(problem: Problem, scheme: QuantizationScheme, chosen: Trial, bases_for: MakersFor) -> Problem:
    """The same for other weights: of the chosen placement, because its speed can't be measured on this CPU."""
    return replace(
        problem,
        scheme=scheme,
        bases=bases_for(scheme),
        placements=[placement for placement in problem.placements if placement.name == chosen.placement],
        measurable=False,
        evaluations=max(problem.evaluations // 2, min(problem.evaluations, _LEAST)),
    )


def _who(group: SchemeGroup, groups: Sequence[SchemeGroup]) -> str:
    """The CPUs that a group is for, in words."""

    def listed(found: Sequence[SchemeGroup]) -> str:
        return " or ".join(" with ".join(needed) for each in found for needed in each.requires if needed)

    if not group.unconditional:
        return f"CPUs with {listed([group])}"
    others = listed([other for other in groups if not other.unconditional])
    return f"CPUs without {others}" if others else "the CPUs of this target"
