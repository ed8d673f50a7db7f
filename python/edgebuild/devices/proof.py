"""Proof: the packed bundle run by the very runner that it carries, before anybody is told that it works."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import Cache, content_key
from edgebuild.devices.local import cpu_model, query_edgerun, why_not_here
from edgebuild.fingerprint import source_digest

_BENCH_SECONDS = 1.0
_WARMUP = 3


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What running a bundle showed.

    Args:
        kind: "native", "emulator", or None if the bundle was not run.
        verified: edgerun's answer to ``verify``, empty if it was not run.
        measured: edgerun's answer to ``bench`` by variant name.
        reason: Why it was not run.
    """

    kind: str | None
    verified: Mapping[str, Any]
    measured: Mapping[str, Mapping[str, Any]]
    reason: str = ""


def peak_memory(bundle: Bundle, engines: Sequence[Path], deadline_s: float | None) -> dict[str, int]:
    """Peak resident memory in bytes of the runner with each variant that this machine's CPU can run, by the variant's name.

    Raises:
        EdgebuildError: A variant does not run.
    """
    peaks: dict[str, int] = {}
    for variant in bundle.manifest.variants:
        if why_not_here(bundle.manifest.target.arch, variant.requires.cpu_features) is not None:
            continue
        answer = _bench(bundle, variant.name, 0.1, 1, deadline_s, _runtime_environment(engines))
        peaks[variant.name] = int(answer["peak_rss_bytes"])
    return peaks


def prove(
    bundle: Bundle,
    cache: Cache,
    *,
    engines: Sequence[Path] = (),
    measure: bool = True,
    deadline_s: float | None = None,
) -> tuple[Proof, bool]:
    """Runs every variant that can run here over the goldens and measures it; the result is kept for this bundle on this CPU.

    Args:
        bundle: The packed bundle.
        cache: Where proofs are kept.
        engines: Libraries that a thin bundle finds outside itself.
        measure: Whether to measure latency too.
        deadline_s: Time limit of loading a variant and of each inference, in seconds.

    Returns:
        The proof, and whether it came from the cache.

    Raises:
        GateError: An output is outside its tolerance.
        EdgebuildError: The bundle does not run.
    """
    arch = bundle.manifest.target.arch
    reasons = [why_not_here(arch, variant.requires.cpu_features) for variant in bundle.manifest.variants]
    if all(reasons):
        return Proof(kind=None, verified={}, measured={}, reason=str(reasons[0])), False
    key = content_key("proof", bundle.id, cpu_model(), measure, source_digest("devices"))
    environment = _runtime_environment(engines)

    def make(folder: Path) -> None:
        steps = len(bundle.manifest.variants) * (1 + len(bundle.manifest.goldens))
        verified = query_edgerun(bundle, ["verify"], deadline_s=deadline_s, steps=steps, environment=environment)
        measured = {}
        ran = [entry["variant"] for entry in verified["variants"] if entry["result"] == "ok"]
        for name in ran if measure else ():
            measured[name] = _bench(bundle, name, _BENCH_SECONDS, _WARMUP, deadline_s, environment)
        text = json.dumps({"verified": verified, "measured": measured}, indent=2)
        (folder / "proof.json").write_text(text, encoding="utf-8")

    folder, cached = cache.find_or_make("proof", key, make)
    data = json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    return Proof(kind="native", verified=data["verified"], measured=data["measured"]), cached


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
