"""build(): the flow from a model to a proved bundle, and nothing else."""

import difflib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.backend_choice import build_plugins, choose_backends, fetch_engines, servable, takers, wanted_torchscript
from edgebuild.backends.lowering import LoweredModel, lower_float, lower_script
from edgebuild.backends.registry import find_backend
from edgebuild.bundle.pack import PackedParts, check_output, check_size, publish, staged_bundle
from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.devices.local import cpu_model, why_not_here
from edgebuild.devices.place import choose_place
from edgebuild.devices.proof import measured_order, peak_memory, prove
from edgebuild.errors import EdgebuildError, UsageError
from edgebuild.export.cached import export_cached
from edgebuild.export.result import NO_GRAPH, ExportedModel
from edgebuild.graph.stage import OptimizedGraph, optimize_export
from edgebuild.model.identify import identify
from edgebuild.model.request import ModelRequest
from edgebuild.model.signature import Signature
from edgebuild.native.runner import build_runner, check_toolchain
from edgebuild.options import BuildOptions, QuantizeOptions
from edgebuild.quantization import BackendQuantization, data_of, find_evaluate, quantize_backend, sample_of
from edgebuild.report import BuildReport, Progress, SilentProgress
from edgebuild.select.decisions import Decisions, check_variants, decide, read_decisions, why_other
from edgebuild.summary import build_report
from edgebuild.targets import BackendSpec, load_target
from edgebuild.targets.spec import lowest_opset

if TYPE_CHECKING:
    from edgebuild.devices.held_out import HeldOut


def build(
    model: Any,
    *,
    target: str,
    output: str | Path | None = None,
    inputs: Sequence[str] = (),
    samples: Sequence[str | Path] = (),
    dynamic: Sequence[str] = (),
    arguments: Mapping[str, Any] | None = None,
    backends: Sequence[str] = (),
    trust_model: bool = False,
    thin: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> BuildReport:
    """Builds a bundle for a target and proves it.

    Args:
        model: Path of a model file, ``"package.module:factory"``, or an ``nn.Module``, ``ScriptModule`` or ``ExportedProgram``.
        target: Name, alias or path of a target.
        output: The bundle's path; None: ``STEM.TARGET.edge`` in the current folder.
        inputs: As ``--input``, e.g. ``["x:float32[1,3,224,224]"]``.
        samples: ``.npz`` files with example inputs.
        dynamic: As ``--dynamic``, e.g. ``["x:0=batch[1..8..32]"]``.
        arguments: Values of non-tensor arguments.
        backends: Only these; where they can be measured here the faster comes first, else they keep this order.
        trust_model: Whether a pickle, which can run anything, may be loaded.
        thin: Leave the engine libraries out.
        progress: Hears how it goes.
        **options: Further fields of ``BuildOptions`` and ``ModelRequest``, e.g. ``parity_tolerance=(atol, rtol)``, ``seed``,
            ``decisions`` (a path), ``deadline_s``, ``measure``, ``verify="emulator"``, ``max_size_bytes``, ``toolchain``,
            ``variant_options={"intra_op_threads": "2"}``; INT8 by ``quantize=QuantizeOptions(calib=...)`` of ``edgebuild.options``.

    Raises:
        EdgebuildError: One of ``edgebuild.errors``; nothing half-written is left.
    """
    from edgebuild.model.spec import parse_dynamic, parse_input

    path = factory = module = None
    if isinstance(model, Path) or (isinstance(model, str) and (":" not in model or Path(model).exists())):
        path = str(model)
    elif isinstance(model, str):
        factory = model
    else:
        module = model
    known = {*ModelRequest.__dataclass_fields__, *BuildOptions.__dataclass_fields__}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            guess = f"did you mean {near[0]}?" if near else "help(edgebuild.build) lists the options"
            if name == "int8" or name in QuantizeOptions.__dataclass_fields__:
                guess = "INT8 is quantize=edgebuild.options.QuantizeOptions(calib=...)"
            msg = f"build() takes no option {name!r}"
            raise UsageError(msg, hint=guess)
    request_fields = {k: options.pop(k) for k in list(options) if k in ModelRequest.__dataclass_fields__}
    request_fields.setdefault("search_path", (str(Path.cwd()),))
    request = ModelRequest(
        path=path,
        factory=request_fields.pop("factory", factory),
        inputs=tuple(parse_input(text) for text in inputs),
        samples=tuple(str(s) for s in samples),
        dynamic=tuple(parse_dynamic(text) for text in dynamic),
        arguments=dict(arguments or {}),
        trust=trust_model,
        **request_fields,
    )
    chosen = BuildOptions(
        target=target,
        output=None if output is None else Path(output),
        backends=tuple(backends),
        thin=thin,
        **options,
    )
    return build_from_request(request, chosen, progress or SilentProgress(), module=module)


def build_from_request(
    request: ModelRequest, options: BuildOptions, progress: Progress, *, module: Any = None
) -> BuildReport:
    """The flow. ``module`` is a model object that was given from Python.

    Raises:
        EdgebuildError: One of ``edgebuild.errors``; nothing half-written is left.
    """
    clock = _Clock(progress)
    target = load_target(options.target)
    if options.toolchain is not None:
        target = replace(target, toolchain=replace(target.toolchain, file=str(options.toolchain.resolve())))
    cache = Cache.default()
    chosen = choose_backends(target, options.backends, options.variant_options, cache)
    request = replace(
        request,
        opset_max=min(request.opset_max, lowest_opset(chosen.specs)),
        time_original=options.measure,
        torchscript=wanted_torchscript(target, chosen.specs, named=bool(options.backends)),
    )
    check_output(options.output, keep=[p for p in (request.path, *request.samples) if p is not None])
    if request.path is not None:  # a file that can't be a model is said before torch is loaded
        identify(Path(request.path))
    decided = None if options.decisions is None else read_decisions(options.decisions, target.name)
    if options.quantize is None and decided is not None and any(q.get("plan") for q in decided.quantization.values()):
        msg = f"--decisions: {options.decisions} holds INT8 variants, and INT8 was not asked for"
        raise UsageError(msg, hint="add --int8, and the same --calib, samples of which are the goldens")
    if options.quantize is not None:
        from edgebuild.data.survey import survey

        quantize = options.quantize
        # A replay needs no data, and calls none; those in files become goldens.
        if decided is None or not isinstance(quantize.calib, str) or ":" not in quantize.calib:
            survey(
                quantize.calib,
                preprocess=quantize.preprocess,
                search_path=request.search_path,
                limit=quantize.max_samples,
            )
        if decided is None:
            find_evaluate(quantize.evaluate, request.search_path)
    check_toolchain(target)
    place = choose_place(
        target, options.verify, cache, progress
    )  # an emulator is fetched, or found missing, before a long export
    if options.quantize is not None and not request.samples:
        request = replace(request, data=data_of(options.quantize))
    sample = None if options.quantize is None or request.inputs or request.samples else sample_of(options.quantize)
    if sample is not None and options.quantize is not None:
        from edgebuild.data.survey import sizes_of

        inputs = sizes_of(sample, stacked=sample == Path(options.quantize.calib))
        progress.note(f"input sizes are those of {sample}; give --input or --sample if they should be others")
        request = replace(request, inputs=inputs, samples=() if inputs else (str(sample),))

    clock.enter("export")
    try:
        exported, hit = _export(request, cache, progress, module, options.deadline_s)
    except EdgebuildError as error:
        if sample is None or options.quantize is None:
            raise
        from edgebuild.data.survey import as_calibration

        raise as_calibration(error, options.quantize.calib, sample) from error
    clock.cached(hit)
    preprocessing = _preprocessing(options, exported.signature)
    chosen = takers(servable(chosen, exported.signature), target, exported, options.variant_options)
    specs = chosen.specs
    if exported.opset is None and request.torchscript != "only":
        progress.note(next(note for note in exported.notes if note.startswith(NO_GRAPH)))

    clock.enter("optimise")
    graphs: dict[str, OptimizedGraph] = {}
    floats: list[LoweredModel] = []
    found_all = True
    for spec in specs:
        if find_backend(spec.name).FORM == "torchscript":
            model, hit = lower_script(exported, spec, chosen.options[spec.name], cache, target)
        else:
            graphs[spec.name], graph_hit = optimize_export(exported.onnx, spec, cache)
            model, hit = lower_float(
                exported, graphs[spec.name], spec, chosen.options[spec.name], cache, target.precision.supported
            )
            found_all &= graph_hit
        floats.append(model)
        found_all &= hit
    clock.cached(found_all)

    quantized: dict[str, BackendQuantization] = {}
    if options.quantize is not None:
        clock.enter("quantise")
        found_all = True
        for spec in specs:
            quantized[spec.name], hit = quantize_backend(
                exported,
                graphs.get(spec.name),
                spec,
                target,
                options.quantize,
                cache,
                progress,
                decided=None if decided is None else decided.quantization.get(spec.name),
                variant_options=chosen.options[spec.name],
                seed=request.seed,
                search_path=request.search_path,
            )
            found_all &= hit
        clock.cached(found_all)

    clock.enter("runner", target.toolchain.triple)
    parts = PackedParts(
        exported=exported,
        target=target,
        graphs=graphs,
        lowered=tuple(_in_order(specs, floats, quantized)),
        quantization={name: found.manifest for name, found in quantized.items() if found.manifest is not None},
        preprocessing=preprocessing,
        engines=fetch_engines(target, specs, cache, progress),
        plugins=build_plugins(target, chosen, cache, progress),
        runner=build_runner(target, cache, progress),
        thin=options.thin,
        measured=options.measure and why_not_here(target.soc.arch, target.soc.features) is None,
        decisions=Decisions(
            target=target.name,
            quantization={name: dict(found.decision) for name, found in quantized.items()},
        ),
    )

    clock.enter("decide", "what the variants need")
    decisions, hit = _decide(parts, cache, options, decided)
    parts = replace(parts, decisions=decisions)
    clock.cached(hit)

    clock.enter("pack")
    with staged_bundle(parts, cache) as staged:
        check_size(staged, target, options.max_size_bytes)
        under = f" under {place.emulator}" if place.emulator else ""
        clock.enter("prove", f"the bundle's own runner{under}" if place.kind else "left out")
        original_ms = exported.original_latency_ms
        proof, hit = prove(
            staged,
            cache,
            place,
            engines=parts.outside_engines,
            measure=options.measure,
            deadline_s=options.deadline_s,
            inference_s=None if original_ms is None else original_ms / 1e3,
            held_out=_held_out(parts, quantized, options, cache) if place.emulator else None,
            progress=progress,
        )
        clock.cached(hit)

        clock.enter("write")
        output = (options.output or Path.cwd() / f"{staged.manifest.name}.{target.name}.edge").absolute()
        report = build_report(staged, output, parts, proof, clock.seconds, clock.hits, quantized)
        made = replace(decisions, bundle_id=staged.id, samples_sha256=_samples_hash(exported))
        report = replace(report, notes=(*chosen.notes, *report.notes))
        if decided is not None and (other := why_other(decided, made)):
            report = replace(report, notes=(*report.notes, other))
        texts = {"decisions": made.text(), "report": json.dumps(report.to_json(), indent=2) + "\n"}
        publish(staged, output, texts)
    clock.finish()
    cache.trim()
    return report


def _preprocessing(options: BuildOptions, signature: Signature) -> Mapping[str, Any] | None:
    """The manifest's ``preprocessing``: how images become an input; None if nothing was said.

    Raises:
        UsageError: What was said is wrong, or does not fit the signature.
    """
    from edgebuild.data.preprocess import parse_preprocess

    given = None if options.quantize is None else options.quantize.preprocess
    if given is None:
        return None
    spec = (parse_preprocess(given) if isinstance(given, str) else given).resolved(signature)
    return {"inputs": {spec.input: spec.to_json()}}


def _export(
    request: ModelRequest, cache: Cache, progress: Progress, module: Any, deadline_s: float | None
) -> tuple[ExportedModel, bool]:
    from edgebuild.export.run import export_model

    return export_cached(
        request,
        cache,
        progress,
        module=module,
        export=lambda folder: export_model(
            request,
            folder,
            module=module,
            deadline=None if deadline_s is None else time.monotonic() + deadline_s,
            progress=lambda text: progress.stage("export", text),
        ),
    )


def _in_order(
    specs: Sequence[BackendSpec], floats: Sequence[LoweredModel], quantized: Mapping[str, BackendQuantization]
) -> Iterator[tuple[BackendSpec, LoweredModel]]:
    """The variants in the order in which a runner tries them: a backend's quantised ones, then its float one if it is needed."""
    for spec, model in zip(specs, floats, strict=True):
        result = quantized.get(spec.name)
        yield from ((spec, lowered) for lowered in (result.lowered if result else ()))
        if result is None or result.float_needed:
            yield spec, model


def _decide(
    parts: PackedParts, cache: Cache, options: BuildOptions, decided: Decisions | None
) -> tuple[Decisions, bool]:
    """Decisions from the user's file, the cache, or by running a first bundle; none for a board that can't be run here."""
    if options.decisions is not None and decided is not None:
        check_variants(decided, options.decisions, parts.variant_names)
        return replace(decided, quantization=parts.decisions.quantization), False
    if why_not_here(parts.target.soc.arch, parts.target.soc.features) is not None:
        return parts.decisions, False
    rivals = parts.rivals if options.measure else ()

    def measure() -> tuple[Mapping[str, int], Sequence[str]]:
        with staged_bundle(parts, cache) as first:
            engines = parts.outside_engines
            peaks = peak_memory(first, engines, options.deadline_s)
            return peaks, measured_order(first, rivals, engines, options.deadline_s)

    # Folders of the cache are named by their content's key.
    content = [model.folder.name for _, model in parts.lowered] + [parts.runner.parent.name]
    content.append(file_sha256(parts.exported.directory / "samples" / "0.npz"))  # sizes of dynamic axes
    engines = sorted(files.pin.sha256 for files in parts.engines.values())
    key = [content, engines, cpu_model(), *rivals]
    found, hit = decide(parts.target.name, key, cache, measure)
    return replace(parts.decisions, memory_bytes=found.memory_bytes, order=found.order), hit


def _samples_hash(exported: ExportedModel) -> str:
    """Of the inputs and outputs that became the goldens."""
    return content_key(*(file_sha256(path) for path in sorted((exported.directory / "samples").glob("*.npz"))))


def _held_out(
    parts: PackedParts, quantized: Mapping[str, BackendQuantization], options: BuildOptions, cache: Cache
) -> dict[str, "HeldOut"]:
    """By INT8 variant what it was judged by on this machine."""
    if options.quantize is None:
        return {}
    from edgebuild.devices.held_out import judged_variants

    judged: dict[str, HeldOut] = {}
    for name, graph in parts.graphs.items():
        spec = parts.target.backend(name)
        judged |= judged_variants(parts.target, spec, quantized[name], graph.path, options.quantize, cache)
    return judged


class _Clock:
    """Wall time of each stage, and which came from the cache."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.hits: list[str] = []
        self._progress = progress
        self._stage: str | None = None
        self._start = 0.0

    def enter(self, name: str, detail: str = "") -> None:
        """Ends the stage before and begins the next."""
        self.finish()
        self._progress.stage(name, detail)
        self._stage, self._start = name, time.monotonic()

    def finish(self) -> None:
        """Ends the last stage."""
        if self._stage is not None:
            self.seconds[self._stage] = time.monotonic() - self._start
            self._stage = None

    def cached(self, hit: bool) -> None:
        """Says whether the current stage was answered from the cache."""
        if hit and self._stage is not None:
            self.hits.append(self._stage)
