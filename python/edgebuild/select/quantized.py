"""From a float graph, data and a budget to the quantised graphs that may ship, or to the reason why none does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebuild.cache import Cache
from edgebuild.data.calibration import CalibrationData
from edgebuild.errors import CalibrationError, InternalError, UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.quantize.calibrate import named_batches
from edgebuild.quantize.candidate import write_candidate
from edgebuild.quantize.insert import forms_of
from edgebuild.quantize.plan import Plan
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.schemes import group_schemes, judged_group
from edgebuild.select.bases import Base, Bases, Calibration
from edgebuild.select.budget import Budget
from edgebuild.select.evidence import Evidence, evidence_of, scheme_of
from edgebuild.select.search import Problem, search
from edgebuild.select.shipping import QuantizedGraph, Shipped, ship
from edgebuild.select.tolerances import golden_fit
from edgebuild.select.trials import Outcome, Trial
from edgebuild.select.workbench import Evaluate, Workbench
from edgebuild.targets.spec import QuantizationScheme

EVALUATIONS = {"fast": 8, "normal": 24, "best": 96}
"""Candidates that may be judged for accuracy, by effort."""

ROUNDING_SECONDS = {"fast": 0.0, "normal": 60.0, "best": 600.0}
"""For adaptive rounding, by effort: layers that are not reached in time are rounded to the nearest."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What quantisation came to for one backend.

    Args:
        graphs: What may ship, best first; empty: float ships, and ``reason`` says why.
        reason: Why nothing was chosen, or why a scheme was left out; empty: nothing to say.
        report: Everything that was tried, for the report beside the bundle.
    """

    graphs: tuple[QuantizedGraph, ...]
    reason: str
    report: Mapping[str, Any]

    @property
    def plans(self) -> Mapping[str, Plan]:
        """What was chosen, by the suffix of the schemes that it is for."""
        return {graph.group.suffix: graph.plan for graph in self.graphs}


@dataclass(frozen=True, kw_only=True)
class QuantizeRequest:
    """What is wanted.

    Args:
        data: Calibration samples; a part of them is held out.
        held_out: That part.
        budget: What may be lost.
        evaluate: The user's own score; None: outputs are compared with float.
        effort: "fast", "normal" or "best".
        fused_operators: Operators outside the standard that the backend has.
        measurable: Whether this machine can run the target.
        cpu_features: Of this machine.
    """

    data: CalibrationData
    held_out: float
    budget: Budget
    evaluate: Evaluate | None
    effort: str
    fused_operators: Sequence[str]
    measurable: bool
    cpu_features: Sequence[str]


def quantize(
    graph: Path,
    exported: ExportedModel,
    schemes: Sequence[QuantizationScheme],
    request: QuantizeRequest,
    open_graph: OpenGraph,
    folder: Path,
    cache: Cache,
    *,
    progress: Callable[[str], None] = lambda text: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Quantized:
    """Searches for the fastest quantised form inside the budget and writes it once for every scheme that needs its own.

    Args:
        graph: The optimised float graph.
        exported: Whose signature and samples it has.
        schemes: Of the target's backend, best first.
        request: What is wanted.
        open_graph: How a graph is run.
        folder: Where the quantised graphs are left.
        cache: For statistics of the calibration.
        progress: Hears what is being done.
        advance: Hears how many of how many calibration batches are done.

    Raises:
        CalibrationError: The data can't be used, or one sample is too few to hold one out.
    """
    inputs, outputs = graph_inputs(exported), graph_outputs(exported)
    groups = group_schemes(schemes)
    judged = judged_group(groups, request.cpu_features)
    forms = forms_of(request.fused_operators)
    used, held = request.data.split(request.held_out)
    if held is None:
        msg = f"one calibration sample is too few: some must be held out to judge the quantised model by ({request.data.description})"
        raise CalibrationError(msg, hint="give two batches at least, better a few hundred samples")

    calibration = Calibration(
        data=used, inputs=inputs, open_graph=open_graph, cache=cache, progress=progress, advance=advance
    )

    def bases_for(scheme: QuantizationScheme, among: Sequence[QuantizationScheme]) -> Bases:
        seconds = ROUNDING_SECONDS[request.effort]
        return Bases(graph, forms, scheme, among, calibration, folder, rounding_seconds=seconds)

    bases = bases_for(judged.scheme, schemes)

    def makers_for(scheme: QuantizationScheme) -> list[Callable[[], Base | None]]:
        return bases_for(scheme, [scheme]).makers()

    def batches() -> Any:
        return named_batches(held, inputs)

    folder.mkdir(parents=True, exist_ok=True)
    with Workbench(
        graph, batches, inputs=inputs, outputs=outputs, open_graph=open_graph, evaluate=request.evaluate
    ) as bench:
        problem = Problem(
            graph=graph,
            placements=bases.placements,
            bases=bases.makers(),
            tables=bases.tables,
            scheme=judged.scheme,
            forms=forms,
            budget=request.budget,
            measurable=request.measurable,
            evaluations=EVALUATIONS[request.effort],
            folder=folder,
            progress=progress,
        )
        outcome = search(problem, bench)
        evidence = evidence_of(outcome, judged, request.fused_operators, inputs, outputs, used, held)
        if evidence is not None:
            evidence.write(folder)
        shipped = Shipped(graphs=(), searches={}, left_out=())
        if outcome.chosen is not None:
            shipped = ship(
                outcome.chosen,
                groups,
                judged,
                problem,
                makers_for,
                bench,
                exported,
                open_graph,
                request.cpu_features,
            )
        (folder / "candidate.onnx").unlink(missing_ok=True)
        (folder / "candidate.onnx.data").unlink(missing_ok=True)
    reason = "; ".join(part for part in (outcome.reason, *shipped.left_out) if part)
    report = _report(outcome, shipped.searches, request, used, held, judged.scheme, reason)
    report["shipped"] = {graph.group.suffix: graph.score.to_json() for graph in shipped.graphs if graph.score}
    return Quantized(graphs=shipped.graphs, reason=reason, report=report)


def graph_inputs(exported: ExportedModel) -> dict[str, str]:
    """The signature's name of each of the graph's inputs."""
    pairs = zip(exported.engine_inputs, exported.signature.inputs, strict=True)
    return {name: spec.name for name, spec in pairs if name is not None}


def graph_outputs(exported: ExportedModel) -> dict[str, str]:
    """The signature's name of each of the graph's outputs."""
    return {name: spec.name for name, spec in zip(exported.engine_outputs, exported.signature.outputs, strict=True)}


def replay(
    plans: Mapping[str, Plan],
    graph: Path,
    exported: ExportedModel,
    schemes: Sequence[QuantizationScheme],
    *,
    fused_operators: Sequence[str],
    cpu_features: Sequence[str],
    open_graph: OpenGraph,
    folder: Path,
) -> tuple[QuantizedGraph, ...]:
    """Writes what was chosen before, without judging it again.

    Args:
        plans: From the decisions, by suffix of the scheme groups that shipped; one at least.
        graph: The optimised float graph.
        exported: Whose signature and samples it has.
        schemes: Of the target's backend.
        fused_operators: Operators outside the standard that the backend has.
        cpu_features: Of this machine.
        open_graph: How a graph is run.
        folder: Where the quantised graphs are left.

    Raises:
        UsageError: The decisions are of another model.
    """
    groups = group_schemes(schemes)
    judged = judged_group(groups, cpu_features)
    forms = forms_of(fused_operators)
    Evidence(
        candidate="replayed",
        plan=plans.get(judged.suffix, next(iter(plans.values()))),
        reverted=(),
        shipped=True,
        scheme=scheme_of(judged),
        fused_operators=tuple(fused_operators),
        inputs=graph_inputs(exported),
        outputs=graph_outputs(exported),
    ).write(folder)
    graphs = []
    for group in groups:
        plan = plans.get(group.suffix)
        if plan is None:
            continue
        path = folder / f"int8{group.suffix}.onnx"
        try:
            write_candidate(graph, plan, group.scheme, forms, path)
        except InternalError as error:
            msg = f"the decisions do not fit this model: {error.message}"
            raise UsageError(msg, hint="decide anew: leave --decisions out") from error
        goldens = golden_fit(exported, path, open_graph)
        graphs.append(QuantizedGraph(group=group, plan=plan, graph=path, goldens=goldens, judged=group is judged))
    return tuple(graphs)


def _report(
    outcome: Outcome,
    searches: Mapping[str, Outcome],
    request: QuantizeRequest,
    used: CalibrationData,
    held: CalibrationData,
    scheme: QuantizationScheme,
    reason: str,
) -> dict[str, Any]:
    return {
        "calibration": {
            "samples": used.count,
            "sha256": used.sha256,
            "random": used.random,
            "source": used.description,
        },
        "held_out": {"samples": held.count, "sha256": held.sha256, "batches": len(held), "distinct": held.distinct},
        "budget": request.budget.to_json(),
        "scheme": {key: value for key, value in vars(scheme).items() if key != "cpu_features"},
        "chosen": None if outcome.chosen is None else outcome.chosen.name,
        "reason": reason,
        "trials": [_trial(trial) for trial in outcome.trials],
        "others": {
            suffix: {
                "chosen": None if other.chosen is None else other.chosen.name,
                "reason": other.reason,
                "trials": [_trial(trial) for trial in other.trials],
            }
            for suffix, other in searches.items()
        },
    }


def _trial(trial: Trial) -> dict[str, Any]:
    speed = trial.speed
    return {
        "name": trial.name,
        "fits": trial.fits,
        "violations": list(trial.violations),
        "score": None if trial.score is None else trial.score.to_json(),
        "speed": None if speed is None else {**vars(speed)},
        "reverted": list(trial.reverted),
        "made_s": trial.made_s,
    }
