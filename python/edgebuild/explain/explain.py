"""explain(): from a bundle to what its build did with it and why."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache
from edgebuild.errors import UsageError
from edgebuild.explain.analysis import analyse
from edgebuild.explain.passes import PassExplanation, measure_passes, passes_of
from edgebuild.explain.result import Analysis
from edgebuild.explain.subject import Subject, open_subject, with_data
from edgebuild.explain.tensorrt_plan import PredictedPlan, predict_plans
from edgebuild.machine import machine_arch

SCHEMA = "edgebuild.explain/1"

Progress = Callable[[str, int, int], None]
"""Hears what is being done, and how many of how many steps are."""


@dataclass(frozen=True, kw_only=True)
class BackendExplanation:
    """What happened for one backend.

    Args:
        backend: Its name.
        nodes: Before and after the graph passes.
        passes: Those that fired.
        trials: Candidates of ``--int8``, as the build's report lists them.
        reason: Why INT8 does not ship, or something less; empty: nothing to say.
        analysis: Of the candidate that shipped or came nearest; None: there is none.
    """

    backend: str
    nodes: tuple[int, int]
    passes: tuple[PassExplanation, ...]
    trials: Sequence[Mapping[str, Any]]
    reason: str
    analysis: Analysis | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What ``edgebuild explain`` says.

    Args:
        bundle: The bundle's path.
        bundle_id: Its id.
        name: Of the model.
        target: The target's name.
        original_ms: Latency of the original in PyTorch; None: not measured.
        variants: As the build's report lists them.
        backends: In the target's order.
        plans: What TensorRT will probably make of its variants.
    """

    bundle: Path
    bundle_id: str
    name: str
    target: str
    original_ms: float | None
    variants: Sequence[Mapping[str, Any]]
    backends: tuple[BackendExplanation, ...]
    plans: tuple[PredictedPlan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """One JSON object, as ``--json`` prints it."""
        return {
            "schema": SCHEMA,
            "bundle": str(self.bundle),
            "bundle_id": self.bundle_id,
            "name": self.name,
            "target": self.target,
            "original_ms": self.original_ms,
            "variants": [
                {key: variant[key] for key in ("name", "precision", "latency_ms", "speed_up", "size_bytes")}
                for variant in self.variants
            ],
            "backends": [_backend_json(backend) for backend in self.backends],
            "predicted_plans": [asdict(plan) for plan in self.plans],
        }


def explain(
    bundle: Bundle,
    *,
    report: Path | None = None,
    measure: bool = False,
    layers: bool = True,
    calib: Any = None,
    data: Any = None,
    preprocess: Any = None,
    cache: Cache | None = None,
    progress: Progress = lambda text, done, total: None,
) -> Explanation:
    """Explains what a build did and why.

    Args:
        bundle: The bundle.
        report: Its build's report; None: beside it.
        measure: Whether to measure what each graph pass gains.
        layers: Whether to measure what each layer of an INT8 form adds to the error.
        calib: Calibration data, where the build kept none.
        data: Data as in use, to judge on; None: what the build held out.
        preprocess: What makes images into inputs; None: as the bundle says.
        cache: Where the build's results lie.
        progress: Hears how it goes.

    Raises:
        UsageError: The report is missing or of another bundle, or something is gone from the cache.
        CalibrationError: The data can't be used.
    """
    cache = cache or Cache.default()
    subject = open_subject(bundle, report, cache)
    found = subject.report
    return Explanation(
        bundle=bundle.path,
        bundle_id=bundle.id,
        name=str(found["model"]),
        target=str(found["target"]),
        original_ms=found["original_latency_ms"],
        variants=found["variants"],
        backends=tuple(
            _explain_backend(
                subject,
                backend,
                measure=measure,
                layers=layers,
                given=(calib, data, preprocess),
                progress=progress,
            )
            for backend in subject.backends
        ),
        plans=predict_plans(bundle),
    )


def _explain_backend(
    subject: Subject, backend: str, *, measure: bool, layers: bool, given: tuple[Any, Any, Any], progress: Progress
) -> BackendExplanation:
    entry = subject.report["graphs"][backend]
    quantization = subject.report["quantization"].get(backend) or {}
    search = quantization.get("search") or {}
    passes = passes_of(entry["passes"])
    opener = partial(_opener(subject, backend), cache=subject.cache)
    if measure:
        folder = subject.cache.staging_folder()
        try:
            exported = subject.exported()
            passes = measure_passes(
                passes,
                exported.onnx,
                _sample(exported.directory, exported.engine_inputs),
                opener,
                folder,
                opset_max=int(entry["opset_max"]),
                fused_operators=entry["fused_operators"],
                progress=progress,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return BackendExplanation(
        backend=backend,
        nodes=(entry["nodes"][0], entry["nodes"][1]),
        passes=passes,
        trials=search.get("trials", ()),
        reason="; ".join(part for part in (str(quantization.get("reason", "")), _caution(search, given)) if part),
        analysis=_analysis(subject, backend, given, opener, progress) if layers else None,
    )


def _caution(search: Mapping[str, Any], given: tuple[Any, Any, Any]) -> str:
    """What is said with every figure that comes from random data; empty: they are real."""
    random = (search.get("calibration") or {}).get("random", False)
    if not random or given[0] is not None or given[1] is not None:
        return ""
    return "calibrated and judged on random data: what is said of the error does not hold for real data (--data DATA)"


def _analysis(
    subject: Subject, backend: str, given: tuple[Any, Any, Any], opener: Any, progress: Progress
) -> Analysis | None:
    evidence = subject.evidence(backend)
    calib, data, preprocess = given
    if evidence is None:
        if calib is not None or data is not None:
            msg = f"{subject.bundle.path}: there is no INT8 form of it whose error --calib or --data could explain"
            raise UsageError(msg, hint="build it with --int8 --calib DATA, or leave the data out")
        return None
    if calib is not None or data is not None or not evidence.held_out:
        evidence = with_data(
            evidence,
            subject.bundle.manifest.signature,
            calib=calib,
            data=data,
            preprocess=preprocess if preprocess is not None else _preprocess(subject),
            cache=subject.cache,
        )
    return analyse(
        subject.graph(backend),
        evidence,
        opener,
        subject.cache,
        arch=subject.bundle.manifest.target.arch,
        progress=progress,
    )


def _preprocess(subject: Subject) -> Any:
    """What makes images into inputs, as the bundle says; None: it says nothing."""
    from edgebuild.data.image_spec import Preprocess

    inputs = (subject.bundle.manifest.preprocessing or {}).get("inputs", {})
    return next((Preprocess.from_json(name, data) for name, data in inputs.items()), None)


def _opener(subject: Subject, backend: str) -> Any:
    """How graphs are run here: by the engine of the bundle, if it is ONNX Runtime, else by that of this installation."""
    from importlib import metadata

    from edgebuild.devices.scratch import open_graph
    from edgebuild.native.engines import engine_pin, fetch_engine

    engines = [variant.engine for variant in subject.bundle.manifest.variants if variant.backend == backend]
    version = next((engine.version for engine in engines if engine is not None and engine.name == "onnxruntime"), None)
    pin = engine_pin("onnxruntime", version or metadata.version("onnxruntime"), machine_arch())
    return partial(open_graph, engine=fetch_engine(pin, subject.cache).library, version=pin.version)


def _sample(folder: Path, names: Sequence[str | None]) -> dict[str, Any]:
    with np.load(folder / "samples" / "0.npz", allow_pickle=False) as arrays:
        return {name: arrays[f"in.{index}"] for index, name in enumerate(names) if name is not None}


def _backend_json(backend: BackendExplanation) -> dict[str, Any]:
    return {
        "backend": backend.backend,
        "nodes": list(backend.nodes),
        "passes": [asdict(entry) for entry in backend.passes],
        "int8": None if backend.analysis is None and not backend.trials else _int8_json(backend),
    }


def _int8_json(backend: BackendExplanation) -> dict[str, Any]:
    analysis = backend.analysis
    data: dict[str, Any] = {"reason": backend.reason, "trials": [dict(trial) for trial in backend.trials]}
    if analysis is None:
        return data
    return {
        **data,
        "candidate": analysis.candidate,
        "shipped": analysis.shipped,
        "output": analysis.output,
        "noise": {
            "total": analysis.total,
            "sum_of_layers": analysis.sum,
            "on_calibration": analysis.on_calibration,
            "batches": analysis.batches,
        },
        "findings": [asdict(finding) for finding in analysis.findings],
        "layers": [asdict(layer) for layer in analysis.layers],
        "values": [
            {
                "name": value.name,
                "range": None if value.extent is None else list(value.extent),
                "seen": [value.held_out.low, value.held_out.high],
                "layers": list(value.layers),
                "share": value.share,
                "cause": value.cause,
                "detail": value.detail,
            }
            for value in analysis.values
        ],
    }
