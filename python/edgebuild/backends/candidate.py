"""What goes into a backend's lowering and what comes out: Candidate and LoweredVariant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebuild.model.signature import Signature
from edgebuild.targets import TargetSpec

NOTE_FILE = "note.txt"
"""In the folder that a backend lowers into: what the user should know, in one line; mostly there is nothing."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A graph with a precision that might become a variant.

    Args:
        graph: ONNX file, optimised; external weights lie beside it.
        precision: "float32", "float16", "bfloat16", "int8" or "mixed".
        inputs: The graph's name for each input of the signature, None if it has none.
        outputs: The graph's name for each output.
        engine_version: Of the engine that the board loads it with.
        suffix: Behind the variant's name where there are several of a precision.
        signature: Of the model.
        precisions: Those that pay on the target.
        tolerances: (atol, rtol) of the export's goldens by output name.
        samples: Files with example inputs, "in.0", … in the signature's order, and the original's outputs "out.0", ….
        target: The board.
    """

    graph: Path
    precision: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    engine_version: str
    suffix: str = ""
    signature: Signature = field(default_factory=lambda: Signature(inputs=(), outputs=()))
    precisions: tuple[str, ...] = ()
    tolerances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    samples: tuple[Path, ...] = ()
    target: TargetSpec | None = None

    def feeds(self) -> Iterator[dict[str, Any]]:
        """The samples' inputs by the graph's names."""
        import numpy as np

        for path in self.samples:
            with np.load(path, allow_pickle=False) as arrays:
                yield {name: arrays[f"in.{i}"] for i, name in enumerate(self.inputs) if name is not None}

    @property
    def sample_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the first sample's inputs, in the signature's order; empty: there is none."""
        import numpy as np

        if not self.samples:
            return ()
        with np.load(self.samples[0], allow_pickle=False) as arrays:
            return tuple(tuple(arrays[f"in.{i}"].shape) for i in range(len(self.inputs)))


@dataclass(frozen=True, kw_only=True)
class LoweredVariant:
    """What a backend loads, before the bundle has it.

    Args:
        name: Unique in the bundle, e.g. "onnxruntime-float32".
        model: File name of the model inside the folder that it was lowered into.
        data: Names of the further files that the model refers to.
        options: Passed to the backend when the variant is loaded.
        tolerances: (atol, rtol) that goldens are held to, by output name; None: those of the export.
        cpu_features: What a CPU must have for it, beyond the target's own.
        glibc: The oldest C library that it runs on; "": any that its engine does.
        measured_here: Whether its speed on the build machine says something about the CPUs that it is meant for.
    """

    name: str
    backend: str
    precision: str
    model: str
    data: tuple[str, ...] = ()
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    tolerances: Mapping[str, tuple[float, float]] | None = None
    cpu_features: tuple[str, ...] = ()
    glibc: str = ""
    measured_here: bool = True
