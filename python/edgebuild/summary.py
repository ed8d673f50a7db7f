"""From the results of the stages to the BuildReport that the user is told."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebuild.bundle.manifest import Variant
from edgebuild.bundle.pack import PackedParts
from edgebuild.bundle.reader import Bundle
from edgebuild.devices.proof import Proof
from edgebuild.int8_report import chosen_trial, score_of
from edgebuild.machine import machine_arch
from edgebuild.quantization import BackendQuantization
from edgebuild.report import BuildReport, OutputCheck, VariantReport
from edgebuild.targets import TargetSpec, target_argument


def build_report(
    bundle: Bundle,
    output: Path,
    parts: PackedParts,
    proof: Proof,
    seconds: Mapping[str, float],
    cached: Sequence[str],
    quantized: Mapping[str, BackendQuantization],
) -> BuildReport:
    """Puts together what the closing summary says; measures nothing itself. The bundle will lie at ``output``."""
    exported = parts.exported
    passes: dict[str, int] = {}
    for graph in parts.graphs.values():
        for name, count in graph.passes.items():
            passes[name] = passes.get(name, 0) + count
    notes = dict.fromkeys((*exported.notes, *(note for graph in parts.graphs.values() for note in graph.notes)))
    notes |= dict.fromkeys(_quantization_notes(quantized))
    notes |= dict.fromkeys(_order_notes(parts))
    notes |= dict.fromkeys(model.note for _, model in parts.lowered if model.note)
    if proof.kind is None:
        notes[f"NOT PROVED, the bundle was not run: {proof.reason}{f'; {proof.hint}' if proof.hint else ''}"] = None
    if proof.kind == "emulator":
        device = proof.device
        notes[f"proved under {device['emulator']} as {device['cpu']}, with libraries of {device['system']}"] = None
    return BuildReport(
        bundle=output,
        bundle_id=bundle.id,
        target=parts.target.name,
        model=exported.name,
        kind=exported.kind,
        exporter=exported.exporter,
        opset=exported.opset,
        attempts=tuple((attempt.exporter, attempt.error) for attempt in exported.attempts if attempt.error is not None),
        signature=exported.signature,
        sizes=_sizes(bundle),
        parity=tuple(
            OutputCheck(
                output=p.output,
                max_abs_error=p.max_abs_error,
                index=p.index,
                atol=p.atol,
                rtol=p.rtol,
                passed=p.passed,
            )
            for p in exported.parity
        ),
        passes={name: count for name, count in passes.items() if count},
        nodes=next((graph.nodes for graph in parts.graphs.values()), None),
        variants=tuple(
            _variant_report(
                bundle, v, proof, exported.original_latency_ms, _accuracy(v, bundle, proof, parts, quantized)
            )
            for v in bundle.manifest.variants
        ),
        assumptions=exported.assumptions,
        notes=tuple(notes),
        seconds=dict(seconds),
        cached=tuple(cached),
        original_latency_ms=exported.original_latency_ms,
        next_steps=_next_steps(bundle, output, parts.target, thin=parts.thin),
        quantization={
            name: {"reason": found.reason, "search": found.report, "manifest": found.manifest}
            for name, found in quantized.items()
        },
        graphs={
            name: {
                "nodes": list(graph.nodes),
                "passes": [dict(step) for step in graph.steps if step["rewrites"]],
                "opset_max": parts.target.backend(name).opset_max,
                "fused_operators": list(parts.target.backend(name).fused_operators),
            }
            for name, graph in parts.graphs.items()
        },
        proof={"kind": proof.kind, **proof.device}
        | ({} if proof.kind else {"reason": proof.reason, "hint": proof.hint or None}),
        kept={
            "export": exported.directory.name,
            "graphs": {name: graph.folder.name for name, graph in parts.graphs.items()},
            "quantized": {name: found.kept for name, found in quantized.items() if found.kept is not None},
        },
    )


def _quantization_notes(quantized: Mapping[str, BackendQuantization]) -> Iterator[str]:
    """What ``--int8`` came to, one line for each thing that the user must know."""
    for name, found in quantized.items():
        if not found.lowered:
            yield f"no INT8 variant ships for {name}: {found.reason}"
        elif found.reason:
            yield f"INT8 for {name}: {found.reason}"
        if found.manifest is not None and not found.manifest["judged"]:
            yield f"INT8 for {name}: calibrated on random data, so its accuracy is NOT known"
        yield from (f"{name}: {note}" for note in found.notes)


def _order_notes(parts: PackedParts) -> Iterator[str]:
    """That engines were measured beside each other, where that changed the order."""
    given = [variant.name for _, model in parts.lowered for variant in model.variants]
    for first, second in zip(parts.variant_names, given, strict=True):
        if first != second:
            yield f"{first} comes before {second}, measured beside each other on this machine"
            return


def _accuracy(
    variant: Variant,
    bundle: Bundle,
    proof: Proof,
    parts: PackedParts,
    quantized: Mapping[str, BackendQuantization],
) -> Mapping[str, Any] | None:
    """What was found on held-out data, by the kernels of a CPU that the variant is for; None: nothing was."""
    found = quantized.get(variant.backend)
    judged = found is not None and found.manifest is not None and found.manifest["judged"]
    lowered = {v.name: v for _, model in parts.lowered for v in model.variants}.get(variant.name)
    if found is None or not judged or lowered is None or lowered.precision != "int8":
        return None
    if not lowered.measured_here:
        scores = (found.report or {}).get("shipped", {})
        rest = variant.name.removeprefix(f"{variant.backend}-int8")
        suffix = max((suffix for suffix in scores if rest.startswith(suffix)), key=len, default=None)
        ran = proof.kind == "native" and not _why_skipped(bundle, proof, variant.name)
        return score_of(scores[suffix]) if ran and suffix is not None else None
    trial = chosen_trial(found.report)
    return None if trial is None or trial["score"] is None else score_of(trial["score"])


def _variant_report(
    bundle: Bundle,
    variant: Variant,
    proof: Proof,
    original_ms: float | None,
    accuracy: Mapping[str, Any] | None = None,
) -> VariantReport:
    measured = proof.measured.get(variant.name)
    skipped = _why_skipped(bundle, proof, variant.name)
    latency = None if measured is None else float(measured["latency_s"]["p50"]) * 1e3
    files = bundle.manifest.files
    return VariantReport(
        name=variant.name,
        backend=variant.backend,
        precision=variant.precision,
        latency_ms=latency,
        speed_up=original_ms / latency if latency and original_ms else None,
        proof=None if skipped else proof.kind,
        checks=_checks(proof.verified, variant.name),
        size_bytes=sum(files[path].size for path in (variant.model, *variant.data)),
        note=skipped or ("" if latency is not None else _why_not_measured(proof) + _flips(proof, variant.name)),
        decisions=tuple(_decisions(entry) for entry in proof.decisions.get(variant.name, ())),
        accuracy=accuracy,
        speed=variant.speed,
    )


def _why_not_measured(proof: Proof) -> str:
    return "not measured: the emulator's speed is not the board's" if proof.kind == "emulator" else "not measured"


def _flips(proof: Proof, variant: str) -> str:
    """The decisions that an INT8 variant takes otherwise than float on the emulated instruction set, for the summary."""
    scores = [score for score in proof.decisions.get(variant, ()) if score["agreement"] is not None]
    on = "held out" if any(score["on"] == "held out" for score in scores) else "goldens"
    told = [_decisions(score) for score in scores if score["on"] == on]
    compared = sum(entry["decisions"] for entry in told)
    if proof.kind != "emulator" or not compared:
        return ""
    data = "held-out data" if on == "held out" else "the goldens"
    return f"; {sum(entry['flipped'] for entry in told)} of {compared} decisions on {data} differ from float there"


def _decisions(score: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of one output's decisions."""
    compared = int(score["decisions"])
    agreement = score["agreement"]
    return {
        "on": score["on"],
        "output": score["output"],
        "decisions": compared,
        "flipped": 0 if agreement is None else round(compared * (1 - agreement)),
        "near_ties": score["near_ties"],
        "sqnr_db": score["sqnr_db"],
        "flipped_here": None if score.get("here") is None else round(compared * (1 - score["here"])),
    }


def _twin(bundle: Bundle, variant: str) -> str:
    """That another variant has the same files, for other CPUs; empty: none has."""
    variants = {v.name: v for v in bundle.manifest.variants}
    mine = variants[variant]
    same = [v.name for v in variants.values() if v.model == mine.model and v.name != variant]
    return f"; it is the same model as {same[0]}, for CPUs with other instructions" if same else ""


def _why_skipped(bundle: Bundle, proof: Proof, variant: str) -> str:
    """Why a variant was not run; empty if it was."""
    for entry in proof.verified.get("variants", ()):
        if entry["variant"] == variant:
            if entry["result"] != "skipped":
                return ""
            return f"not run here: {entry['reason']}{_twin(bundle, variant)}"
    return "not run"


def _checks(verified: Mapping[str, Any], variant: str) -> tuple[OutputCheck, ...]:
    for entry in verified.get("variants", ()):
        if entry["variant"] == variant and entry["result"] != "skipped":
            return tuple(
                OutputCheck(
                    output=o["output"],
                    max_abs_error=math.inf if o["max_error"] is None else float(o["max_error"]),
                    index=tuple(o["worst"]["index"]) if o["worst"] else (),
                    atol=o["tolerance"]["atol"],
                    rtol=o["tolerance"]["rtol"],
                    passed=o["ok"],
                )
                for o in entry["outputs"]
            )
    return ()


def _sizes(bundle: Bundle) -> dict[str, int]:
    parts = {"bin/": "runner", "lib/": "libraries", "model/": "model", "golden/": "goldens", "licenses/": "licences"}
    sizes = {"archive": bundle.path.stat().st_size, **dict.fromkeys(parts.values(), 0)}
    for path, entry in bundle.manifest.files.items():
        sizes[parts[path[: path.index("/") + 1]]] += entry.size
    return sizes


def _next_steps(bundle: Bundle, output: Path, target: TargetSpec, *, thin: bool) -> tuple[str, ...]:
    """Commands as one types them in this folder."""
    try:
        path = shlex.quote(str(output.relative_to(Path.cwd())))
    except ValueError:
        path = shlex.quote(str(output))
    name = shlex.quote(output.name)
    tunes = target.soc.arch != machine_arch() and len(bundle.manifest.variants) > 1
    plans = any(variant.backend == "tensorrt" for variant in bundle.manifest.variants)
    engines = (
        f"edgebuild runtime pack --target {target_argument(target)} -o engines, then on this machine and on the board: "
        "export EDGEBUILD_RUNTIME_PATH=/path/to/engines",
    )
    return (
        *(engines if thin else ()),
        f"edgebuild run {path} --inputs in.npz --outputs out.npz",
        # The emulator's times are nobody's.
        *((f"edgebuild bench {path}",) if target.soc.arch == machine_arch() else ()),
        f"on the board: tar xf {name} && {bundle.manifest.top}/bin/edgerun verify",
        *(
            (f"on the board: {bundle.manifest.top}/bin/edgerun prepare   (builds TensorRT's plan, once)",)
            if plans
            else ()
        ),
        *((f"on the board: {bundle.manifest.top}/bin/edgerun tune",) if tunes else ()),
    )
