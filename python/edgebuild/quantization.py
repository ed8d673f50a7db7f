"""What ``--int8`` adds to a build: opens the data, searches or replays, keeps the result, and lowers what may ship."""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgebuild.backends.lowering import LoweredModel, lower_model
from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.devices.local import cpu_model, why_not_here
from edgebuild.errors import GateError, UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.fingerprint import source_digest
from edgebuild.graph.stage import OptimizedGraph, graph_sha256, stage_versions
from edgebuild.int8_report import LEAST_TOLD_DB, doubts
from edgebuild.machine import this_machine
from edgebuild.model.importing import import_attribute
from edgebuild.model.request import DataRequest
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.options import QuantizeOptions
from edgebuild.quantize.schemes import group_schemes
from edgebuild.report import Progress
from edgebuild.select.budget import Budget
from edgebuild.select.decisions import decided_plans, plans_to_json
from edgebuild.select.workbench import Evaluate
from edgebuild.targets import BackendSpec, TargetSpec
from edgebuild.targets.spec import QuantizationScheme

_JUDGES = "onnxruntime"
"""The engine that runs graphs on the build machine, whatever backend they are for."""


@dataclass(frozen=True, kw_only=True)
class BackendQuantization:
    """What quantisation came to for a backend.

    Args:
        lowered: Variants that may ship, best first.
        float_needed: Whether a float variant has to ship behind them.
        decision: What replays it.
        manifest: For the manifest's ``quantization``; None: nothing ships.
        reason: Why nothing ships, or something less; empty: nothing to say.
        report: Everything that was tried; None: replayed.
        kept: Key of the folder in the cache's section "quantize" that explains it; None: there is none.
        notes: What weakens the proof of what ships, one sentence each.
    """

    lowered: tuple[LoweredModel, ...]
    float_needed: bool
    decision: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    reason: str
    report: Mapping[str, Any] | None
    kept: str | None = None
    notes: tuple[str, ...] = ()


def quantize_backend(
    exported: ExportedModel,
    optimized: OptimizedGraph | None,
    spec: BackendSpec,
    target: TargetSpec,
    options: QuantizeOptions,
    cache: Cache,
    progress: Progress,
    *,
    decided: Mapping[str, Any] | None = None,
    variant_options: Mapping[str, str],
    seed: int = 0,
    search_path: Sequence[str] = (),
) -> tuple[BackendQuantization, bool]:
    """Finds, or replays, the quantised variants of a backend.

    Args:
        exported: The model.
        optimized: Its float graph for this backend; None: it runs as TorchScript, which is not quantised.
        spec: The backend.
        target: Its board.
        options: What is wanted.
        cache: Where results are kept; those that hang on a function of the user's are not.
        progress: Hears how it goes.
        decided: A decision to replay.
        variant_options: Options of every variant.
        seed: Of random data.
        search_path: Where ``module:callable`` is looked for first.

    Returns:
        What may ship, and whether it came from the cache.

    Raises:
        CalibrationError: The data can't be used.
        GateError: Nothing quantised may ship, and it is required.
        UsageError: There is no data, or the decision does not fit.
    """
    if optimized is None:
        return _settle(_nothing("it runs the model as TorchScript, and INT8 needs an ONNX graph"), options), False
    schemes = target.quantization.get(spec.name, ())
    if not schemes or optimized.precision == "int8":
        why = "the model is quantised already" if schemes else f"target {target.name} has no scheme for {spec.name}"
        return _settle(_nothing(why), options), False
    folder, cached = _graphs(
        exported, optimized, spec, target, schemes, options, cache, progress, decided, seed, search_path
    )
    result = json.loads((folder / "quantized.json").read_text(encoding="utf-8"))
    groups = {group.suffix: group for group in group_schemes(schemes)}
    lowered = tuple(
        lower_model(
            exported,
            folder / entry["graph"],
            "int8",
            spec,
            variant_options,
            cache,
            suffix=entry["suffix"],
            requires=groups[entry["suffix"]].requires,
            tolerances={name: (pair[0], pair[1]) for name, pair in entry["tolerances"].items()},
            measured_here=entry["judged"],
            precisions=target.precision.supported,
        )[0]
        for entry in result["graphs"]
    )
    reason = result["reason"]
    if lowered and not any(model.variants for model in lowered):
        lowered = ()
        reason = f"{spec.name} has not the operators of what was found, which quantises products at run time"
    # Speed was measured for the CPUs of one scheme, by the engine that judges; for all others float has to be there.
    measured = [groups[entry["suffix"]] for entry in result["graphs"] if entry["judged"]]
    runs_here = why_not_here(target.soc.arch, target.soc.features) is None
    return _settle(
        BackendQuantization(
            lowered=lowered,
            float_needed=not (
                lowered and spec.name == _JUDGES and runs_here and any(group.unconditional for group in measured)
            ),
            decision=result["decision"],
            manifest=result["decision"].get("manifest") if lowered else None,
            reason=reason,
            report=result["report"],
            kept=folder.name,
            notes=tuple(
                doubts(
                    result["report"],
                    [entry["goldens_db"] for entry in result["graphs"]],
                    real=data_of(options) is not None,
                )
            )
            if lowered
            else (),
        ),
        options,
    ), cached


def _settle(result: BackendQuantization, options: QuantizeOptions) -> BackendQuantization:
    if not result.lowered and options.required:
        msg = f"no INT8 variant may ship: {result.reason}"
        searched = result.report is not None and result.report["trials"]
        more = "give more or better calibration data, a wider budget, --effort best, or " if searched else ""
        raise GateError(msg, hint=f"{more}leave --require out")
    return result


def _nothing(reason: str) -> BackendQuantization:
    return BackendQuantization(
        lowered=(),
        float_needed=True,
        decision={**plans_to_json({}), "reason": reason},
        manifest=None,
        reason=reason,
        report=None,
    )


def _graphs(
    exported: ExportedModel,
    optimized: OptimizedGraph,
    spec: BackendSpec,
    target: TargetSpec,
    schemes: Sequence[QuantizationScheme],
    options: QuantizeOptions,
    cache: Cache,
    progress: Progress,
    decided: Mapping[str, Any] | None,
    seed: int,
    search_path: Sequence[str],
) -> tuple[Path, bool]:
    """A folder of the cache with the quantised graphs and ``quantized.json``."""
    from edgebuild.devices.scratch import open_graph

    machine = this_machine()
    pin = engine_pin(_JUDGES, target_version(target, spec), machine.arch)
    opener = partial(open_graph, engine=judging_engine(target, spec, cache), version=pin.version, cache=cache)
    runs_here = why_not_here(target.soc.arch, target.soc.features) is None
    features = machine.features if runs_here else ()
    stands_for = content_key(graph_sha256(optimized.path), [{**vars(scheme)} for scheme in schemes])
    key: list[Any] = [
        graph_sha256(optimized.path),
        pin.sha256,
        file_sha256(Path(__file__)),
        [file_sha256(path) for path in sorted((exported.directory / "samples").glob("*.npz"))],
        [{**vars(scheme)} for scheme in schemes],
        sorted(spec.fused_operators),
        stage_versions(),
        source_digest("data", "quantize", "select", "devices"),
        dict(exported.tolerances),
    ]
    if decided is not None:
        from edgebuild.select.quantized import replay

        plans = decided_plans(decided, [group.suffix for group in group_schemes(schemes)])
        if decided.get("graph") != stands_for:
            msg = f"--decisions: the quantisation in it is of another model, another version of it, or another target than {target.name}"
            raise UsageError(msg, hint="decide anew: leave --decisions out and give --calib")

        def make(folder: Path) -> None:
            graphs = (
                ()
                if not plans
                else replay(
                    plans,
                    optimized.path,
                    exported,
                    schemes,
                    fused_operators=spec.fused_operators,
                    cpu_features=features,
                    open_graph=opener,
                    folder=folder,
                )
            )
            _write(folder, graphs, decision=decided, reason=str(decided.get("reason", "")), report=None)

        return cache.find_or_make("quantize", content_key("replay", key, decided), make)

    from edgebuild.data.calibration import HINT_NO_DATA, open_calibration
    from edgebuild.select.quantized import QuantizeRequest, quantize

    if options.calib is None:
        msg = "--int8 needs calibration data: none is given"
        raise UsageError(msg, hint=HINT_NO_DATA)
    evaluate, judge_key = find_evaluate(options.evaluate, search_path)
    with open_calibration(
        options.calib,
        exported.signature,
        preprocess=options.preprocess,
        seed=seed,
        search_path=search_path,
        max_samples=options.max_samples,
        cache=cache,
        examples=_examples(exported),
    ) as data:
        for note in data.notes:
            progress.note(note)
        request = QuantizeRequest(
            data=data,
            held_out=options.held_out,
            budget=Budget.unlimited() if data.random and evaluate is None else options.budget,
            evaluate=evaluate,
            effort=options.effort,
            fused_operators=spec.fused_operators,
            measurable=runs_here,
            cpu_features=features,
        )

        def make_anew(folder: Path) -> None:
            found = quantize(
                optimized.path,
                exported,
                schemes,
                request,
                opener,
                folder,
                cache,
                progress=lambda text: progress.stage("quantise", text),
                advance=lambda done, total: progress.advance(done, total, "batches"),
            )
            calibration = {k: v for k, v in found.report["calibration"].items() if k != "source"}
            manifest = {
                "calibration": calibration,
                "scheme": found.report["scheme"],
                "judged": not data.random or evaluate is not None,
            }
            decision = {
                "graph": stands_for,
                **plans_to_json(found.plans),
                "reason": found.reason,
                "manifest": manifest,
            }
            _write(folder, found.graphs, decision=decision, reason=found.reason, report=found.report)

        settings = [
            data.sha256,
            options.held_out,
            request.budget.to_json(),
            options.effort,
            judge_key,
            cpu_model(),
            runs_here,
        ]
        return cache.find_or_make("quantize", content_key("search", key, json.loads(json.dumps(settings))), make_anew)


def judging_engine(target: TargetSpec, spec: BackendSpec, cache: Cache) -> Path:
    """The library that runs a backend's graphs on the build machine."""
    return fetch_engine(engine_pin(_JUDGES, target_version(target, spec), this_machine().arch), cache).library


def target_version(target: TargetSpec, spec: BackendSpec) -> str:
    """Version of the engine that judges graphs: the backend's own if it is that engine, else the target's next one of it."""
    if spec.name == _JUDGES:
        return spec.version
    for other in target.runtime:
        if other.name == _JUDGES:
            return other.version
    from importlib import metadata

    return metadata.version(_JUDGES)


def _write(folder: Path, graphs: Sequence[Any], *, decision: Any, reason: str, report: Any) -> None:
    data = {
        "graphs": [
            {
                "graph": graph.graph.name,
                "suffix": graph.group.suffix,
                "tolerances": {name: list(pair) for name, pair in graph.goldens.tolerances.items()},
                "goldens_db": None if graph.goldens.sqnr_db == math.inf else max(graph.goldens.sqnr_db, LEAST_TOLD_DB),
                "judged": graph.judged,
            }
            for graph in graphs
        ],
        "decision": decision,
        "reason": reason,
        "report": report,
    }
    (folder / "quantized.json").write_text(json.dumps(data, indent=1), encoding="utf-8")


def _examples(exported: ExportedModel) -> list[Mapping[str, Any]]:
    """The export's samples, by the signature's names."""
    import numpy as np

    examples: list[Mapping[str, Any]] = []
    for index in range(exported.sample_count):
        with np.load(exported.directory / "samples" / f"{index}.npz", allow_pickle=False) as arrays:
            examples.append({spec.name: arrays[f"in.{i}"] for i, spec in enumerate(exported.signature.inputs)})
    return examples


def find_evaluate(evaluate: Any, search_path: Sequence[str]) -> tuple[Evaluate | None, str | None]:
    """The user's score as a function, and a key that no other build has: what a function looks at can't be hashed."""
    if evaluate is None:
        return None, None
    function = evaluate
    if not callable(evaluate):
        function = import_attribute(
            str(evaluate), search_path, option="--eval", noun="function", example="score:accuracy", error=UsageError
        )
    if not callable(function):
        msg = f"--eval {evaluate}: expected a function f(predict) -> number, got {type(function).__name__}"
        raise UsageError(msg)
    return function, uuid.uuid4().hex


def data_of(options: QuantizeOptions) -> DataRequest | None:
    """Calibration data in files, some of which become goldens; None: they are code, an object or random numbers."""
    if not isinstance(options.calib, str | Path) or options.calib == "random" or not Path(options.calib).exists():
        return None
    preprocess = options.preprocess
    return DataRequest(path=str(Path(options.calib)), preprocess=None if preprocess is None else str(preprocess))


def sample_of(options: QuantizeOptions) -> Path | None:
    """The first ``.npz`` of a calibration folder, or the file: it knows the model's input sizes better than any guess.

    None: there is none, or it holds images that are still to be made inputs of.
    """
    if options.preprocess is not None or not isinstance(options.calib, str | Path):
        return None
    path = Path(options.calib)
    if path.is_dir():
        return min(path.glob("*.npz"), default=None)
    return path if path.suffix in (".npz", ".npy") and path.is_file() else None
