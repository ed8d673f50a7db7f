"""BuildOptions: what the ``build`` command and ``edgebuild.build()`` take beside the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgebuild.select.budget import Budget


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How ``--int8`` is done.

    Args:
        calib: Calibration data: the path of a folder or file, ``"module:callable"``, ``"random"``, or from Python a
            DataLoader or any iterable of samples; None: only with decisions to replay.
        preprocess: What makes images into inputs; needed for folders of images.
        evaluate: The user's own score: ``"module:callable"`` or a function ``f(predict) -> number``; more is better.
        budget: What may be lost.
        effort: "fast", "normal" or "best": how many candidates may be judged.
        required: Whether it is an error (exit code 6) if nothing quantised may ship.
        held_out: Share of the samples that is kept apart to judge with, in (0, 1).
        max_samples: Samples to use at most.
    """

    calib: Any = None
    preprocess: Any = None
    evaluate: Any = None
    budget: Budget = field(default_factory=Budget)
    effort: str = "normal"
    required: bool = False
    held_out: float = 0.25
    max_samples: int = 1024


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build and how.

    Args:
        target: Name, alias or path of a target file.
        output: Where the bundle goes; None: ``STEM.TARGET.edge`` in the current folder.
        backends: Only these, in this order; empty: the target's.
        thin: Leave the engine libraries out of the bundle.
        decisions: A ``decisions.json`` to replay; None: decide anew.
        deadline_s: Time limit of everything that runs the model, in seconds; None: none.
        measure: Whether to measure latency of variants that the build machine can run.
        verify: Where the packed bundle is proved: "native", "emulator" or "none"; None: here if it runs here, else under an emulator
            if one can be had.
        toolchain: A CMake toolchain file in place of the target's; None: the target's.
        max_size_bytes: Largest archive that may be written; None: no limit but the target's.
        variant_options: Options of every variant, e.g. ``{"intra_op_threads": "2"}``.
        quantize: Look for INT8 variants inside an accuracy budget; None: float only.
    """

    target: str
    output: Path | None = None
    backends: tuple[str, ...] = ()
    thin: bool = False
    decisions: Path | None = None
    deadline_s: float | None = None
    measure: bool = True
    verify: str | None = None
    toolchain: Path | None = None
    max_size_bytes: int | None = None
    variant_options: Mapping[str, str] = field(default_factory=dict)
    quantize: QuantizeOptions | None = None
