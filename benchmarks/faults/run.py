"""Plants a fault, quantises as a build does, and asks for the explanation."""

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgebuild.cache import Cache
from edgebuild.data.calibration import open_calibration
from edgebuild.devices.scratch import open_graph
from edgebuild.explain.analysis import analyse
from edgebuild.explain.findings import Finding
from edgebuild.explain.result import Analysis
from edgebuild.export.result import ExportedModel
from edgebuild.graph.io import load_model, save_model
from edgebuild.select.budget import Budget
from edgebuild.select.evidence import Evidence
from edgebuild.select.quantized import QuantizeRequest, quantize
from edgebuild.targets import load_target
from faults.bases import Base, base
from faults.plant import FAULTS, Case
from workbench import engine_library

PLAN = (
    *(("channel x1000", kind, seed) for kind in ("cnn", "depthwise", "transformer") for seed in (0, 1)),
    *(("channel x1000", "mobile", seed) for seed in (0, 1)),
    *(("layer clipped", kind, seed) for kind in ("cnn", "transformer", "mobile") for seed in (0, 1)),
    *(("wrong scale", kind, seed) for seed, kind in enumerate(("cnn", "depthwise", "transformer", "mobile"))),
    *(("swapped BGR", "mobile", seed) for seed in (0, 1, 2)),
    *(("unlike data", kind, seed % 2) for seed, kind in enumerate(("cnn", "depthwise", "transformer", "mobile"))),
    *(("saturating pairs", kind, 0) for kind in ("cnn", "transformer", "mobile")),
    *(("saturating bias", kind, 1) for kind in ("cnn", "depthwise")),
    *(("outliers", kind, 1) for kind in ("cnn", "depthwise", "transformer", "mobile")),
    ("exponential", "cnn", 0),
    ("exponential", "depthwise", 1),
    ("exponential", "mobile", 1),
    ("cancellation", "cnn", 1),
    ("cancellation", "mobile", 1),
    ("sharp attention", "transformer", 1),
)
"""Fault, net and seed of each of the 40 cases."""

assert len(PLAN) == 40


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was planted, and what the explanation says first.

    Args:
        fault: What was planted.
        net: Where.
        layers: The layers of the fault; empty: it is in the data.
        first: The explanation's first finding.
        layer_right: Whether the first layer that it names is one of them.
        cause_right: Whether its cause is that of the fault.
        sqnr_db: Signal to noise of the candidate with the fault.
        analysis: All of it.
    """

    fault: str
    net: str
    layers: frozenset[str]
    first: Finding
    layer_right: bool
    cause_right: bool
    sqnr_db: float
    analysis: Analysis

    @property
    def right(self) -> bool:
        """Whether the right layer or the right cause comes first."""
        return self.layer_right or self.cause_right


def run(fault: str, kind: str, seed: int, *, effort: str = "fast") -> Verdict:
    """One case from the start."""
    sound = base(kind, seed)
    rng = np.random.default_rng([seed, *fault.encode(), *kind.encode()])
    case = Case(model=load_model(sound.graph), calibration=sound.calibration, labels=sound.labels)
    FAULTS[fault](case, rng, sound)
    cache = Cache.default()
    folder = cache.staging_folder()
    try:
        graph = folder / "graph.onnx"
        save_model(case.model, graph)
        evidence = _quantised(graph, case, sound, folder / "work", cache, effort)
        if case.plan is not None:
            evidence = replace(evidence, plan=case.plan(evidence.plan))
        if case.in_use is not None:
            name = next(iter(evidence.inputs))
            evidence = replace(evidence, held_out=[{name: image[None]} for image in case.in_use])
        analysis = analyse(graph, evidence, partial(open_graph, engine=engine_library(), cache=cache), cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first = analysis.findings[0]
    return Verdict(
        fault=fault,
        net=f"{kind}-{seed}",
        layers=frozenset(case.layers),
        first=first,
        layer_right=bool(first.layers) and first.layers[0] in case.layers,
        cause_right=first.cause in case.causes,
        sqnr_db=-10 * float(np.log10(max(analysis.total, 1e-12))),
        analysis=analysis,
    )


def _quantised(graph: Path, case: Case, sound: Base, folder: Path, cache: Cache, effort: str) -> Evidence:
    """What a build with ``--int8`` leaves of this graph and these data; nothing is timed."""
    spec = load_target("x86-64").runtime[0]
    with open_calibration({"x": case.calibration}, sound.exported.signature, cache=cache) as data:
        request = QuantizeRequest(
            data=data,
            held_out=0.25,
            budget=Budget(),
            evaluate=None,
            effort=effort,
            fused_operators=spec.fused_operators,
            measurable=False,
            cpu_features=(),
        )
        exported = _exported(sound.exported, folder)
        opener = partial(open_graph, engine=engine_library(), cache=cache)
        quantize(graph, exported, [case.scheme], request, opener, folder, cache)
    evidence = Evidence.read(folder)
    assert evidence is not None
    return evidence


def _exported(exported: ExportedModel, folder: Path) -> ExportedModel:
    """The same without goldens: the planted graph gives other outputs, and ships nowhere."""
    return replace(exported, sample_count=0)
