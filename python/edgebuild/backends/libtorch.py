"""LibTorch: loads TorchScript, through a plugin that is compiled against it."""

import shutil
from pathlib import Path

from edgebuild.backends.candidate import Candidate, LoweredVariant

NAME = "libtorch"
ENGINE: str | None = "libtorch"
FORM = "torchscript"
LOWERING = "1"
OPTIONS: dict[str, tuple[str, ...]] = {"intra_op_threads": (), "graph_optimization": ("basic", "all")}
"""What cpp/backends/libtorch/model.cpp takes; a test holds the two together."""


NUMBERS: dict[str, int] = {}
"""The most of options that are numbers."""


def lower(candidate: Candidate, options: dict[str, str], folder: Path) -> tuple[LoweredVariant, ...]:
    """Takes over the export's archive: it is frozen already, and its plugin optimises it for the CPU that it is loaded on."""
    stem = f"{NAME}-{candidate.precision}{candidate.suffix}"
    shutil.copyfile(candidate.graph, folder / f"{stem}.pt")
    variant = LoweredVariant(
        name=stem,
        backend=NAME,
        precision=candidate.precision,
        model=f"{stem}.pt",
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        options={"graph_optimization": "all", **options},
    )
    return (variant,)
