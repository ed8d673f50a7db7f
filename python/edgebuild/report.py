"""BuildReport: what a build did, for the summary, for ``--json`` and for the report beside the bundle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgebuild.model.signature import Signature

REPORT_SCHEMA = "edgebuild.build/1"


class Progress(Protocol):
    """Hears how a build goes. Calls come from one thread; none may raise."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage begins (and the one before has ended), e.g. ``stage("export", "torch.export")``."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Within the stage: ``done`` of ``total`` (0: unknown) in ``unit``, e.g. "bytes", "runs"."""

    def note(self, message: str) -> None:
        """A line that the user should see now: an assumption, a fallback."""


class SilentProgress:
    """A Progress that says nothing."""

    def stage(self, name: str, detail: str = "") -> None: ...

    def advance(self, done: int, total: int, unit: str) -> None: ...

    def note(self, message: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class OutputCheck:
    """One output held against the original: the worst element and its tolerance."""

    output: str
    max_abs_error: float
    index: tuple[int, ...]
    atol: float
    rtol: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class VariantReport:
    """One variant of the bundle.

    Args:
        name: E.g. "onnxruntime-float32".
        latency_ms: Median of one inference by the bundle's own runner, one thread; None if not measured here.
        speed_up: Original's latency over this one's; None if one of them is unknown.
        proof: Where the goldens were run: "native", "emulator", or None if they were not.
        checks: Goldens held against the original, worst over all goldens.
        size_bytes: Of the model files of this variant.
        note: Why a figure is missing, or what the user should know.
        decisions: Of an INT8 variant that was run, how each output decides on the instruction set that it was run on: "on" ("goldens",
            against the original; "held out", against float, under an emulator), "output", "decisions" compared, "flipped",
            "near_ties", "sqnr_db", and "flipped_here": by the build machine's own kernels on the same data.
        speed: "measured" or "unproved", as the manifest says it to a runner.
        accuracy: Of an INT8 variant, against float on the data that was held out: "sqnr_db" of the worst output (None: no
            noise), "agreement" of decisions (None: no output decides); None: not known, e.g. it did not run here.
    """

    name: str
    backend: str
    precision: str
    latency_ms: float | None
    speed_up: float | None
    proof: str | None
    checks: tuple[OutputCheck, ...]
    size_bytes: int
    note: str = ""
    decisions: tuple[Mapping[str, Any], ...] = ()
    accuracy: Mapping[str, Any] | None = None
    speed: str = "measured"


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Everything the closing summary says.

    Args:
        bundle: The archive.
        bundle_id: Hash of its manifest.
        sizes: Bytes of the parts: "archive", "model", "runner", "libraries", "goldens".
        parity: Exported graph against the original.
        passes: What the graph stage did: pass name -> times fired.
        opset: Of the exported ONNX graph; None: there is none, the model runs as TorchScript.
        nodes: Graph nodes before and after; None likewise.
        assumptions: What was inferred, with the flag that overrides it.
        notes: What else the user should know.
        seconds: Wall time of each stage.
        cached: Stages that were taken from the cache.
        original_latency_ms: Median of the original in PyTorch, one thread.
        attempts: Exporters that were tried before the one that was taken, each with what it failed on.
        quantization: By backend what ``--int8`` tried and why it chose; empty: it was not asked for.
        graphs: By backend "nodes" before and after, and "passes": what each graph pass did, for `edgebuild explain`.
        proof: Where the bundle was run: "kind" ("native", "emulator" or None), under an emulator also "arch", "cpu", "emulator" and
            "system", if it was not run "reason" and "hint".
        kept: Keys of what lies in the cache: "export", and by backend "graphs" and "quantized".
    """

    bundle: Path
    bundle_id: str
    target: str
    model: str
    kind: str
    exporter: str
    opset: int | None
    signature: Signature
    sizes: Mapping[str, int]
    parity: tuple[OutputCheck, ...]
    passes: Mapping[str, int]
    nodes: tuple[int, int] | None
    variants: tuple[VariantReport, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    cached: tuple[str, ...]
    original_latency_ms: float | None
    next_steps: tuple[str, ...]
    attempts: tuple[tuple[str, str], ...] = ()
    quantization: Mapping[str, Any] = field(default_factory=dict)
    graphs: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One JSON object with a schema name, as ``--json`` prints it."""

        def checks(items: tuple[OutputCheck, ...]) -> list[dict[str, Any]]:
            return [
                {
                    **vars(item),
                    "index": list(item.index),
                    "max_abs_error": item.max_abs_error if math.isfinite(item.max_abs_error) else None,
                }
                for item in items
            ]

        data: dict[str, Any] = {"schema": REPORT_SCHEMA, **vars(self)}
        data["bundle"] = str(self.bundle)
        data["signature"] = self.signature.to_json()
        data["parity"] = checks(self.parity)
        data["variants"] = [
            {**vars(v), "checks": checks(v.checks), "decisions": [dict(d) for d in v.decisions]} for v in self.variants
        ]
        for key in ("sizes", "passes", "seconds", "quantization", "graphs", "kept", "proof"):
            data[key] = dict(data[key])
        return data
