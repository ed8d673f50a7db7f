"""From an optimised or quantised graph to what a backend of the target loads, cached."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebuild.backends.candidate import NOTE_FILE, Candidate, LoweredVariant
from edgebuild.backends.registry import find_backend
from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.export.program import PROGRAM_FILE
from edgebuild.export.result import SCRIPT_FILE, ExportedModel
from edgebuild.graph.stage import OptimizedGraph, graph_sha256, stage_versions
from edgebuild.targets import BackendSpec, TargetSpec

Tolerances = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class LoweredModel:
    """A backend's variants of one graph, in a cached folder; none: it can't load such a graph."""

    folder: Path
    variants: tuple[LoweredVariant, ...]
    note: str = ""
    """What the user should know of it."""

    def path(self, name: str) -> Path:
        """Of a file that a variant names."""
        return self.folder / name


def lower_model(
    exported: ExportedModel,
    graph: Path,
    precision: str,
    spec: BackendSpec,
    options: Mapping[str, str],
    cache: Cache,
    *,
    suffix: str = "",
    requires: Sequence[Sequence[str]] = ((),),
    tolerances: Tolerances | None = None,
    measured_here: bool = True,
    precisions: Sequence[str] = (),
    target: TargetSpec | None = None,
    also: Sequence[Any] = (),
) -> tuple[LoweredModel, bool]:
    """Writes what the backend loads.

    Args:
        exported: Whose signature and samples the graph has.
        graph: ONNX file, optimised; large weights lie beside it.
        precision: By the manifest's names.
        spec: The backend.
        options: Of the variants, beyond the backend's own.
        cache: Where it is kept.
        suffix: Behind the variants' names where one backend has several of a precision, e.g. "-vnni".
        requires: CPU features that a variant needs beyond the target's; a variant of the same files for each.
        measured_here: Whether the build machine's speed says something about the CPUs that the variants are meant for.
        precisions: Those that pay on the target.
        target: Where the backend compiles: what for.
        also: What else the result depends on, JSON-able.
        tolerances: Of the goldens; None: those of the export, widened for a graph that came quantised.

    Returns:
        The variants, and whether they came from the cache.

    Raises:
        UsageError: There is no such backend.
    """
    backend = find_backend(spec.name)
    settings = {**spec.options, **options}
    samples = tuple(sorted((exported.directory / "samples").glob("*.npz")))
    key = content_key(
        ["lower", backend.LOWERING, spec.name, spec.version, settings, precision, suffix],
        [list(features) for features in requires],
        measured_here,
        graph_sha256(graph),
        [list(exported.engine_inputs), list(exported.engine_outputs), dict(exported.tolerances)],
        [exported.signature.to_json(), list(precisions)],
        None if tolerances is None else dict(tolerances),
        [file_sha256(path) for path in samples],
        _versions(),
        *also,
    )
    candidate = Candidate(
        graph=graph,
        precision=precision,
        engine_version=spec.version,
        suffix=suffix,
        inputs=exported.engine_inputs,
        outputs=exported.engine_outputs,
        signature=exported.signature,
        precisions=tuple(precisions),
        tolerances=exported.tolerances,
        samples=samples,
        target=target,
    )

    def make(folder: Path) -> None:
        variants = [
            replace(variant, measured_here=measured_here and variant.measured_here)
            for variant in backend.lower(candidate, settings, folder)
        ]
        shared = tolerances
        if shared is None and precision == "int8":
            from edgebuild.backends.rounding import widened_tolerances

            shared = widened_tolerances(exported, graph)
        if shared is not None:
            more = [variant.tolerances if precision == "int8" else None for variant in variants]
            variants = [
                replace(variant, tolerances=_added(shared, own)) for variant, own in zip(variants, more, strict=True)
            ]
        entries = [entry for variant in variants for entry in _to_json(variant, requires)]
        (folder / "lowered.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")

    folder, cached = cache.find_or_make("lower", key, make)
    return _read(folder), cached


def _added(shared: Tolerances, own: Tolerances | None) -> Tolerances:
    """What a graph is held to, and beside that what a form of it that rounds further may differ from the graph."""
    if own is None:
        return shared
    return {name: (atol + own[name][0], max(rtol, own[name][1])) for name, (atol, rtol) in shared.items()}


def lower_float(
    exported: ExportedModel,
    optimized: OptimizedGraph,
    spec: BackendSpec,
    options: Mapping[str, str],
    cache: Cache,
    precisions: Sequence[str] = (),
) -> tuple[LoweredModel, bool]:
    """``lower_model`` of a graph as the graph stage left it."""
    return lower_model(exported, optimized.path, optimized.precision, spec, options, cache, precisions=precisions)


def lower_script(
    exported: ExportedModel, spec: BackendSpec, options: Mapping[str, str], cache: Cache, target: TargetSpec
) -> tuple[LoweredModel, bool]:
    """``lower_model`` of an export's TorchScript form, and of its compiled one."""
    from edgebuild.backends.inductor import identity

    script = exported.script
    assert script is not None
    program = exported.directory / PROGRAM_FILE
    return lower_model(
        replace(exported, engine_inputs=script.inputs, engine_outputs=script.outputs, tolerances=script.tolerances),
        exported.directory / SCRIPT_FILE,
        script.precision,
        spec,
        options,
        cache,
        tolerances=script.tolerances,
        target=target,
        also=[file_sha256(program), target.name, identity(target)] if program.exists() else [],
    )


def _versions() -> dict[str, str]:
    from edgebuild.fingerprint import source_digest

    return {**stage_versions(), "backends": source_digest("backends")}


def _to_json(variant: LoweredVariant, requires: Sequence[Sequence[str]]) -> list[dict[str, object]]:
    entries = []
    for index, features in enumerate(requires):
        name = variant.name if index == 0 else f"{variant.name}-{index + 1}"
        entries.append(
            {
                **vars(variant),
                "name": name,
                "options": dict(variant.options),
                "tolerances": None if variant.tolerances is None else dict(variant.tolerances),
                "cpu_features": sorted({*variant.cpu_features, *features}),
            }
        )
    return entries


def _read(folder: Path) -> LoweredModel:
    entries = json.loads((folder / "lowered.json").read_text(encoding="utf-8"))
    tuples = ("data", "inputs", "outputs", "cpu_features")
    variants = tuple(LoweredVariant(**{**entry, **{key: tuple(entry[key]) for key in tuples}}) for entry in entries)
    note = folder / NOTE_FILE
    return LoweredModel(
        folder=folder, variants=variants, note=note.read_text(encoding="utf-8") if note.exists() else ""
    )
