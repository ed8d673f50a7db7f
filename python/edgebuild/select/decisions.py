"""Decisions: what a build settles by measuring. They are inputs: the same decisions give the same bytes, and can be replayed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebuild.cache import Cache, content_key
from edgebuild.errors import UsageError
from edgebuild.quantize.plan import Plan

SCHEMA = "edgebuild.decisions/1"
_MEMORY_STEP = 16 * 2**20
"""Peaks are rounded up to this: two measurements of the same program differ by less, and boards have memory in such steps."""


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What was settled.

    Args:
        target: The target's name.
        memory_bytes: What a variant needs, by its name: the runner's peak resident memory, rounded up to 16 MiB.
        order: Names of variants of several engines that were measured beside each other, the better first; empty: none were.
        quantization: By backend what was quantised and how, as ``edgebuild.quantization`` writes it; empty: nothing was asked for.
        bundle_id: Of the bundle that was built with them; "": not known.
        samples_sha256: Of its sample inputs and their outputs; "": not known.
    """

    target: str
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    quantization: Mapping[str, Any] = field(default_factory=dict)
    bundle_id: str = ""
    samples_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        data = {"schema": SCHEMA, "target": self.target, "memory_bytes": dict(sorted(self.memory_bytes.items()))}
        data |= {"order": list(self.order)} if self.order else {}
        data |= {key: getattr(self, key) for key in ("bundle_id", "samples_sha256") if getattr(self, key)}
        return {**data, "quantization": dict(self.quantization)} if self.quantization else data

    def text(self) -> str:
        """The file's content."""
        return json.dumps(self.to_json(), indent=2) + "\n"


def read_decisions(path: Path, target: str) -> Decisions:
    """Decisions to replay.

    Raises:
        UsageError: The file can't be read, is not a decisions file, or is about another target.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise UsageError(msg) from error
    except ValueError as error:
        msg = f"{path}: not JSON: {error}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        msg = f"{path}: expected an object with schema {SCHEMA!r}, got {found!r}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle")
    if data.get("target") != target:
        msg = f"{path}: these decisions are for target {data.get('target')!r}, this build is for {target!r}"
        raise UsageError(msg)
    memory = data.get("memory_bytes")
    if not isinstance(memory, dict) or not all(isinstance(v, int) and 0 < v < 2**53 for v in memory.values()):
        msg = f"{path}: expected memory_bytes as a whole number above 0 for each variant, got {memory!r}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle")
    order = data.get("order", [])
    if not isinstance(order, list) or len(order) != len({name for name in order if isinstance(name, str)}):
        msg = f"{path}: expected order as a list of the variants' names, each once, got {order!r:.80}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle")
    quantization = data.get("quantization", {})
    if not isinstance(quantization, dict) or not all(isinstance(entry, dict) for entry in quantization.values()):
        msg = f"{path}: expected quantization as an object for each backend, got {quantization!r:.80}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle")
    told = {key: str(data.get(key) or "") for key in ("bundle_id", "samples_sha256")}
    return Decisions(target=target, memory_bytes=memory, order=tuple(order), quantization=quantization, **told)


def why_other(replayed: Decisions, made: Decisions) -> str:
    """What to tell the user where replayed decisions gave another bundle than the one that they are from; "": the same, or not known."""
    if not replayed.bundle_id or replayed.bundle_id == made.bundle_id:
        return ""
    text = (
        f"NOT the same bundle as the decisions are from: {made.bundle_id[:16]}, theirs is {replayed.bundle_id[:16]}; "
    )
    if replayed.samples_sha256 and replayed.samples_sha256 != made.samples_sha256:
        return text + "its sample inputs are others: give the same --calib, --sample, --input and --seed as then"
    return (
        text + "something else than the samples differs: the model, an option, the target file, or a version of a tool"
    )


def check_variants(decisions: Decisions, path: Path, variants: Sequence[str]) -> None:
    """Raises UsageError if the decisions name variants that the bundle will not have."""
    for key, names in (("memory_bytes", list(decisions.memory_bytes)), ("order", decisions.order)):
        if not set(names) <= set(variants):
            msg = f"{path}: expected {key} for {', '.join(variants)}, got {', '.join(map(str, names))}"
            raise UsageError(msg, hint="the decisions are from another model or another version")


def reordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """``names``, of which those in ``order`` change places among themselves to be in that order; all others keep theirs."""
    known = iter([name for name in order if name in names])
    return [next(known) if name in order else name for name in names]


def plans_to_json(plans: Mapping[str, Plan]) -> dict[str, Any]:
    """For ``Decisions.quantization``: the plan of each group of schemes, by suffix; those that are the first one's are not repeated."""
    first = next(iter(plans.values()), None)
    data: dict[str, Any] = {"plan": None if first is None else first.to_json(), "suffixes": list(plans)}
    others = {suffix: plan.to_json() for suffix, plan in plans.items() if plan != first}
    return data | ({"plans": others} if others else {})


def decided_plans(decided: Mapping[str, Any], known: Sequence[str]) -> dict[str, Plan]:
    """The inverse of ``plans_to_json``, of a decision that somebody may have written by hand; empty: nothing was quantised.

    Args:
        decided: A backend's entry.
        known: The suffixes of the target's schemes.

    Raises:
        UsageError: It can't be read, or is of other schemes.
    """
    try:
        suffixes, manifest = decided["suffixes"], decided.get("manifest", {"judged": False})
        if not isinstance(suffixes, list) or not all(suffix in known for suffix in suffixes):
            msg = f"expected suffixes of {', '.join(map(repr, known))}, got {suffixes!r:.80}"
            raise ValueError(msg)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("judged"), bool):
            msg = "its manifest does not say whether it was judged"
            raise ValueError(msg)
        others = decided.get("plans", {})
        if not isinstance(others, dict) or not set(others) <= set(suffixes):
            msg = f"expected plans for some of {', '.join(map(repr, suffixes))}, got {others!r:.80}"
            raise ValueError(msg)
        if decided["plan"] is None:
            return {}
        if not suffixes:
            msg = "it has a plan, and no schemes that it is for"
            raise ValueError(msg)
        first = Plan.from_json(decided["plan"])
        return {suffix: Plan.from_json(others[suffix]) if suffix in others else first for suffix in suffixes}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"--decisions: the quantisation in it can't be read: {error}"
        raise UsageError(msg, hint="give the decisions file that an earlier build wrote beside its bundle") from error


def decide(
    target: str, key: Sequence[Any], cache: Cache, measure: Callable[[], tuple[Mapping[str, int], Sequence[str]]]
) -> tuple[Decisions, bool]:
    """Decides by measuring, once: the decisions are kept for the same content on the same CPU.

    Args:
        target: The target's name.
        key: Everything that the measurement depends on, JSON-able.
        cache: Where decisions are kept.
        measure: Runs every variant; gives its peak resident memory in bytes by name, and ``Decisions.order``.

    Returns:
        The decisions, and whether they came from the cache.
    """
    entry = content_key("decisions", SCHEMA, target, list(key))

    def make(folder: Path) -> None:
        measured, order = measure()
        peaks = {name: -(-peak // _MEMORY_STEP) * _MEMORY_STEP for name, peak in measured.items()}
        made = Decisions(target=target, memory_bytes=peaks, order=tuple(order))
        (folder / "decisions.json").write_text(made.text(), encoding="utf-8")

    folder, cached = cache.find_or_make("decisions", entry, make)
    data = json.loads((folder / "decisions.json").read_text(encoding="utf-8"))
    return Decisions(target=target, memory_bytes=data["memory_bytes"], order=tuple(data.get("order", ()))), cached
