"""LibTorch: loads TorchScript, through a plugin that is compiled against it."""

import shutil
from pathlib import Path

from edgebuild.backends.candidate import NOTE_FILE, Candidate, LoweredVariant
from edgebuild.backends.inductor import compile_program, cpu_kind
from edgebuild.export.program import PROGRAM_FILE
from edgebuild.native.plugin import find_compilers

NAME = "libtorch"
ENGINE: str | None = "libtorch"
FORM = "torchscript"
LOWERING = "2"
OPTIONS: dict[str, tuple[str, ...]] = {"intra_op_threads": (), "graph_optimization": ("basic", "all")}
"""What cpp/backends/libtorch/model.cpp takes; a test holds the two together."""


NUMBERS: dict[str, int] = {}
"""The most of options that are numbers."""


def lower(candidate: Candidate, options: dict[str, str], folder: Path) -> tuple[LoweredVariant, ...]:
    """Takes over the export's archive: it is frozen already, and its plugin optimises it for the CPU that it is loaded on.

    Beside it, where this machine can compile for the target, a library that AOTInductor made of the same model.
    """
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
    compiled = _compiled(candidate, options, folder, f"{stem}-compiled")
    return (variant,) if compiled is None else (compiled, variant)


def _compiled(candidate: Candidate, options: dict[str, str], folder: Path, stem: str) -> LoweredVariant | None:
    program = candidate.graph.with_name(PROGRAM_FILE)
    if candidate.target is None or not program.exists() or cpu_kind(candidate.target) is None:
        return None
    found = compile_program(
        program,
        candidate.samples,
        [candidate.tolerances[spec.name] for spec in candidate.signature.outputs],
        candidate.target,
        find_compilers(candidate.target).cxx,
        folder / f"{stem}.so",
    )
    if isinstance(found, str):
        (folder / NOTE_FILE).write_text(f"no variant compiled by AOTInductor: {found}", encoding="utf-8")
        return None
    return LoweredVariant(
        name=stem,
        backend=NAME,
        precision=candidate.precision,
        model=found.path.name,
        inputs=candidate.inputs,
        outputs=candidate.outputs,
        options=dict(options),
        cpu_features=found.cpu_features,
        glibc=found.glibc,
    )
