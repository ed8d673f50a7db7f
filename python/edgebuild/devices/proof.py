"""Proof: the packed bundle run by the very runner that it carries, before anybody is told that it works."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.unpacked import drop_damaged_copy
from edgebuild.cache import Cache, content_key
from edgebuild.devices.child import Hear
from edgebuild.devices.emulator import Emulator
from edgebuild.devices.local import query_edgerun, why_bundle_not_here, why_not_here
from edgebuild.devices.place import HERE, Place
from edgebuild.errors import GateError, IncompatibleError
from edgebuild.fingerprint import source_digest
from edgebuild.report import Progress

if TYPE_CHECKING:
    from edgebuild.devices.held_out import HeldOut

_BENCH_SECONDS = 1.0
_WARMUP = 3
_ORDER_SECONDS = 4.0
_ORDER_ROUNDS = 31
_EMULATED_STEP_S = 60.0
_UNKNOWN_INFERENCE_S = 0.5
_EMULATED_SLOWDOWN = 1000.0
"""An emulated inference takes up to 300 times as long as one by PyTorch here (measured: MobileNetV2 125); more is a hang."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What running a bundle showed.

    Args:
        kind: "native", "emulator", or None if the bundle was not run.
        verified: edgerun's answer to ``verify``, empty if it was not run.
        measured: edgerun's answer to ``bench`` by variant name; empty under an emulator, whose speed says nothing.
        decisions: By INT8 variant, for each output how it decides: ``edgebuild.select.metrics.OutputScore`` as JSON, with "on":
            "goldens" against the original and, under an emulator, "held out" against float, as ``HeldOut.judge`` gives it.
        device: What an emulator stood for: "arch", "cpu", "emulator", "system"; empty for kind "native" and None.
        reason: Why it was not run.
        hint: What to do about that.
    """

    kind: str | None
    verified: Mapping[str, Any]
    measured: Mapping[str, Mapping[str, Any]]
    decisions: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    hint: str = ""


def peak_memory(bundle: Bundle, engines: Sequence[Path], deadline_s: float | None) -> dict[str, int]:
    """Peak resident memory in bytes of the runner with each variant that this machine's CPU can run, by the variant's name.

    Raises:
        EdgebuildError: A variant does not run.
    """
    drop_damaged_copy(bundle)
    peaks: dict[str, int] = {}
    for variant in bundle.manifest.variants:
        if why_not_here(bundle.manifest.target.arch, variant.requires.cpu_features) is not None:
            continue
        try:
            answer = _bench(bundle, variant.name, 0.1, 1, deadline_s, _runtime_environment(engines))
        except IncompatibleError:
            if variant.plugin is None:
                raise
            continue  # What its plugin needs, a GPU or a plan for it, is not on this machine.
        peaks[variant.name] = int(answer["peak_rss_bytes"])
    return peaks


def measured_order(
    bundle: Bundle, among: Sequence[str], engines: Sequence[Path], deadline_s: float | None
) -> tuple[str, ...]:
    """Those of some variants that run here, the fastest first as far as the noise allows a statement: what the runner's ``tune`` finds.

    Empty where no two of them are of one precision, and where one is outside its tolerance: that is for the proof to say.

    Raises:
        EdgebuildError: A variant does not run.
    """
    if not among:
        return ()
    drop_damaged_copy(bundle)
    variants = bundle.manifest.variants
    with tempfile.TemporaryDirectory(prefix="edgebuild-order-") as state:
        words = ["tune", "--threads", "1", "--seconds", str(_ORDER_SECONDS), "--state-dir", state]
        try:
            answer = query_edgerun(
                bundle,
                words,
                deadline_s=deadline_s,
                steps=len(variants) * (2 + len(bundle.manifest.goldens) + _ORDER_ROUNDS),
                busy_s=_ORDER_SECONDS,
                environment=_runtime_environment(engines),
            )
        except GateError:
            return ()
    order = [str(name) for name in answer["tunings"][0]["order"] if name in among]
    precisions = {variant.precision for variant in variants if variant.name in order}
    return tuple(order) if len(order) > len(precisions) else ()


def prove(
    bundle: Bundle,
    cache: Cache,
    place: Place = HERE,
    *,
    engines: Sequence[Path] = (),
    measure: bool = True,
    deadline_s: float | None = None,
    inference_s: float | None = None,
    held_out: Mapping[str, "HeldOut"] | None = None,
    progress: Progress | None = None,
) -> tuple[Proof, bool]:
    """Runs every variant that can run there over the goldens and measures it; the result is kept for this bundle and CPU.

    Args:
        bundle: The packed bundle.
        cache: Where proofs are kept.
        place: Where it is run.
        engines: Libraries that a thin bundle finds outside itself.
        measure: Whether to measure latency too; never done under an emulator.
        deadline_s: Time limit of loading a variant and of each inference, in seconds; the board's, so not the emulator's.
        held_out: By INT8 variant the data that it was judged by on this machine; it is judged by them again under an emulator.
        progress: Hears what is run under an emulator, and how many inferences of it are done.
        inference_s: What one inference of the original takes here, in seconds: an emulator that takes far longer hangs. None: not known.

    Returns:
        The proof, and whether it came from the cache.

    Raises:
        GateError: An output is outside its tolerance.
        EdgebuildError: The bundle does not run.
    """
    if place.kind is None:
        return Proof(kind=None, verified={}, measured={}, reason=place.reason, hint=place.hint), False
    emulator = place.emulator
    if emulator is None:
        reason = why_bundle_not_here(bundle)
        if reason is not None:
            return Proof(kind=None, verified={}, measured={}, reason=reason), False
    measure = measure and emulator is None
    judged = {name: held for name, held in (held_out or {}).items() if emulator is not None}
    key = content_key(
        "proof",
        bundle.id,
        place.identity,
        measure,
        {name: held.key for name, held in judged.items()},
        source_digest("devices", "select"),
    )
    environment = _runtime_environment(engines)
    heard = None if emulator is None or progress is None else progress
    runs = len(bundle.manifest.variants) * len(bundle.manifest.goldens)
    steps = len(bundle.manifest.variants) * (1 + len(bundle.manifest.goldens))
    step_s = _EMULATED_STEP_S + _EMULATED_SLOWDOWN * (_UNKNOWN_INFERENCE_S if inference_s is None else inference_s)
    limit_s = None if emulator is None else steps * step_s

    def hear(what: str) -> Hear | None:
        if heard is None:
            return None
        if what:
            heard.stage("prove", what)
        return lambda done, total: heard.advance(done, total, "runs")

    def make(folder: Path) -> None:
        drop_damaged_copy(bundle)  # an earlier build's: what was just packed is proved, not what somebody did to that
        verified = query_edgerun(
            bundle,
            ["verify"],
            deadline_s=None if emulator else deadline_s,
            steps=steps,
            environment=environment,
            emulator=emulator,
            limit_s=limit_s,
            hear=hear(""),
            total=runs,
        )
        measured = {}
        ran = [entry["variant"] for entry in verified["variants"] if entry["result"] == "ok"]
        for name in ran if measure else ():
            measured[name] = _bench(bundle, name, _BENCH_SECONDS, _WARMUP, deadline_s, environment)
        decisions = {}
        for variant in bundle.manifest.variants:
            if variant.name in ran and variant.precision == "int8":
                told = hear(f"decisions of {variant.name} on the goldens")
                scores, inference_s = _decisions(bundle, variant.name, environment, emulator, limit_s, told)
                decisions[variant.name] = [{"on": "goldens", **score} for score in scores]
                if variant.name in judged:
                    scores = judged[variant.name].judge(
                        bundle,
                        variant.name,
                        place,
                        environment,
                        inference_s=inference_s,
                        limit_s=limit_s,
                        hear=hear(f"decisions of {variant.name} on data that was held out"),
                    )
                    decisions[variant.name] += [{"on": "held out", **score} for score in scores]
        found = {"verified": verified, "measured": measured, "decisions": decisions}
        (folder / "proof.json").write_text(json.dumps(found, indent=2), encoding="utf-8")

    folder, cached = cache.find_or_make("proof", key, make)
    data = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    return Proof(kind=place.kind, device=emulator.to_json() if emulator else {}, **data), cached


def _decisions(
    bundle: Bundle,
    variant: str,
    environment: Mapping[str, str],
    emulator: Emulator | None,
    limit_s: float | None,
    hear: Hear | None,
) -> tuple[list[dict[str, Any]], float]:
    """How a quantised variant decides on the goldens, which a tolerance on elements does not show; and one inference's seconds."""
    import numpy as np

    from edgebuild.devices.feeds import run_feeds
    from edgebuild.select.metrics import ScoreCounter

    plain = [
        golden
        for golden in bundle.goldens()
        if all(isinstance(value, np.ndarray) for value in (*golden.inputs.values(), *golden.outputs.values()))
    ]
    if not plain:
        return [], 1.0
    results = run_feeds(
        bundle,
        variant,
        [golden.inputs for golden in plain],
        environment=environment,
        emulator=emulator,
        limit_s=limit_s,
        hear=hear,
    )
    counter = ScoreCounter([spec.name for spec in bundle.signature.outputs])
    for golden, result in zip(plain, results.outputs, strict=True):
        counter.add(golden.outputs, result)
    return [score.to_json() for score in counter.scores()], results.inference_s


def _bench(
    bundle: Bundle, variant: str, seconds: float, warmup: int, deadline_s: float | None, environment: Mapping[str, str]
) -> Mapping[str, Any]:
    """The answer of edgerun to ``bench`` of one variant on one thread."""
    command = ["bench", "--variant", variant, "--threads", "1", "--seconds", str(seconds), "--warmup", str(warmup)]
    steps = 1 + 1 + warmup + 1  # the load, the first inference, those that warm up, and the one that the end falls into
    return query_edgerun(bundle, command, deadline_s=deadline_s, steps=steps, busy_s=seconds, environment=environment)


def _runtime_environment(engines: Sequence[Path]) -> dict[str, str]:
    """Where a thin bundle finds its engines."""
    folders = sorted({str(path.parent) for path in engines})
    return {"EDGEBUILD_RUNTIME_PATH": ":".join(folders)} if folders else {}
