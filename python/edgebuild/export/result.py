"""ExportedModel: what the export stage leaves in its folder, read without torch.

DIR/exported.json     this class as JSON
DIR/model.onnx        the exported graph; weights of 256 MiB or more lie in model.onnx.data beside it
                      absent if no exporter could make one and the TorchScript form stands in for it
DIR/model.ts          TorchScript form, if asked for (no debug files, fixed top folder)
DIR/model.pt2         torch.export form beside it, where torch.export takes the model
DIR/samples/I.npz     input set I and the original model's outputs: keys "in.J" and "out.J" by signature index;
                      types that numpy lacks as raw uint8/uint16 arrays of the element's width
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebuild.model.signature import Signature

SCRIPT_FILE = "model.ts"
NO_GRAPH = "no ONNX graph, so the model runs as TorchScript through LibTorch"
"""How the note begins that says so."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One exporter that was tried. ``error`` None: it worked. ``operator`` and ``location``: what it stumbled on, if known."""

    exporter: str
    error: str | None
    operator: str | None = None
    location: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputParity:
    """Worst disagreement of one output over all samples, as |got - expected| against atol + rtol * |expected|."""

    output: str
    max_abs_error: float
    index: tuple[int, ...]
    got: float
    expected: float
    atol: float
    rtol: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ScriptForm:
    """The TorchScript form, ``model.ts``.

    Args:
        origin: How it came about, e.g. "torch.jit.script".
        inputs: Names of ``forward``'s arguments, in signature order.
        outputs: For each output its number among the tensors that ``forward`` returns.
        precision: What most weights are stored in, by the manifest's names.
        parity: Against the original, for each output.
        tolerances: (atol, rtol) for each output by name.
        no_program: Why there is no ``model.pt2`` beside it; empty: there is one, or the model keeps state.
    """

    origin: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: str
    parity: tuple[OutputParity, ...]
    tolerances: Mapping[str, tuple[float, float]]
    no_program: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "precision": self.precision,
            "parity": [{**vars(p), "index": list(p.index)} for p in self.parity],
            "tolerances": {name: list(pair) for name, pair in self.tolerances.items()},
            "no_program": self.no_program,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ScriptForm":
        return cls(
            origin=data["origin"],
            inputs=tuple(data["inputs"]),
            outputs=tuple(data["outputs"]),
            precision=data["precision"],
            parity=tuple(OutputParity(**{**p, "index": tuple(p["index"])}) for p in data["parity"]),
            tolerances={name: (pair[0], pair[1]) for name, pair in data["tolerances"].items()},
            no_program=data["no_program"],
        )


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """Result of the export stage.

    Args:
        directory: Where the files lie.
        name: Stem of the bundle's name.
        kind: What came in, in words.
        signature: Inputs, outputs, symbols, structure.
        engine_inputs: The graph's name for each input of the signature; None if the graph does not use it.
        engine_outputs: The graph's name for each output.
        exporter: The exporter whose graph it is, e.g. "torch.export", "torchscript", "onnx" (nothing to do).
        opset: Of the default domain; None: there is no ONNX graph, and names, parity and tolerances are those of ``script``.
        attempts: Every exporter that was tried, in order.
        parity: For each output.
        tolerances: (atol, rtol) for each output by name, derived from dtype and depth; what the bundle's goldens are held to.
        sample_count: Files in ``samples/``.
        assumptions: What was inferred, with the flag that overrides it.
        notes: What was changed or found.
        original_latency_ms: Median of one inference of the original on sample 0, one thread; None if not measured.
        producer: Versions of what took part.
        script: The TorchScript form; None: there is none.
        keeps_state: Whether the model keeps state from run to run; then the samples are a sequence of steps from the state that the
            file holds.
    """

    directory: Path
    name: str
    kind: str
    signature: Signature
    engine_inputs: tuple[str | None, ...]
    engine_outputs: tuple[str, ...]
    exporter: str
    opset: int | None
    attempts: tuple[Attempt, ...]
    parity: tuple[OutputParity, ...]
    tolerances: Mapping[str, tuple[float, float]]
    sample_count: int
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    original_latency_ms: float | None
    producer: Mapping[str, str]
    script: ScriptForm | None = None
    keeps_state: bool = False

    @property
    def onnx(self) -> Path:
        return self.directory / "model.onnx"

    def write(self) -> None:
        """Writes ``exported.json`` into the folder."""
        data: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "signature": self.signature.to_json(),
            "engine_inputs": list(self.engine_inputs),
            "engine_outputs": list(self.engine_outputs),
            "exporter": self.exporter,
            "opset": self.opset,
            "attempts": [vars(a) for a in self.attempts],
            "parity": [{**vars(p), "index": list(p.index)} for p in self.parity],
            "tolerances": {name: list(pair) for name, pair in self.tolerances.items()},
            "sample_count": self.sample_count,
            "assumptions": list(self.assumptions),
            "notes": list(self.notes),
            "original_latency_ms": self.original_latency_ms,
            "producer": dict(self.producer),
            "script": None if self.script is None else self.script.to_json(),
            "keeps_state": self.keeps_state,
        }
        (self.directory / "exported.json").write_text(json.dumps(data, indent=2), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> "ExportedModel":
        """Reads what ``write`` wrote."""
        data = json.loads((directory / "exported.json").read_text(encoding="utf-8"))
        return cls(
            directory=directory,
            name=data["name"],
            kind=data["kind"],
            signature=Signature.from_json(data["signature"]),
            engine_inputs=tuple(data["engine_inputs"]),
            engine_outputs=tuple(data["engine_outputs"]),
            exporter=data["exporter"],
            opset=data["opset"],
            attempts=tuple(Attempt(**a) for a in data["attempts"]),
            parity=tuple(OutputParity(**{**p, "index": tuple(p["index"])}) for p in data["parity"]),
            tolerances={name: (pair[0], pair[1]) for name, pair in data["tolerances"].items()},
            sample_count=data["sample_count"],
            assumptions=tuple(data["assumptions"]),
            notes=tuple(data["notes"]),
            original_latency_ms=data["original_latency_ms"],
            producer=data["producer"],
            script=None if data["script"] is None else ScriptForm.from_json(data["script"]),
            keeps_state=data["keeps_state"],
        )
