"""Loads TorchScript files: onto the CPU, into inference mode, with the signature found in the graph."""

import re
import zipfile
from pathlib import Path
from typing import Any

from edgebuild.errors import ModelError
from edgebuild.model import arguments, scriptfix
from edgebuild.model.graphfacts import GraphReader
from edgebuild.model.request import ModelRequest
from edgebuild.model.resolve import Loaded, last_line, resolve
from edgebuild.model.source import ModelKind, ModelSource


def load(path: Path, request: ModelRequest) -> ModelSource:
    """Loads a TorchScript archive.

    Raises:
        ModelError: The archive is damaged, is for a younger PyTorch, uses operators that this one lacks, or works on files of its own and is
            not trusted; see also ``resolve``.
    """
    import torch

    if not request.trust:
        _refuse_files(path)
    notes: list[str] = []
    try:
        with scriptfix.on_cpu(path, notes) as file:
            module = torch.jit.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        msg = f"{path}: TorchScript that PyTorch {torch.__version__} can't load: {_reason(error)}"
        raise ModelError(msg, hint="save it anew with torch.jit.save; custom operators can't be loaded") from None
    return from_script(module, request, path.stem, notes)


_FILE_OPERATORS = re.compile(rb"\b(?:torch|ops\s*\.\s*aten)\s*\.\s*(save|from_file)\b")
"""The operators of TorchScript that write files, or make and map them."""

_TELLING = re.compile(r"Unknown builtin op: \S+|[^\n]*maximum supported version[^\n.]*")


def _refuse_files(path: Path) -> None:
    """Looks through an archive's code for operators that work on files, before loading runs any of it.

    A guard against the careless, not a sandbox: docs/export.md says what TorchScript can do.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            found = _FILE_OPERATORS.search(archive.read(name)) if "/code/" in name and name.endswith(".py") else None
            if found is not None:
                what = "writes" if found.group(1) == b"save" else "opens"
                msg = f"{path}: the TorchScript {what} files when it is run: aten::{found.group(1).decode()} in {name.partition('/')[2]}"
                raise ModelError(msg, hint="save the model without it; if you trust its origin, add --trust-model")


def _reason(error: BaseException) -> str:
    """What torch has against an archive, in one line: it puts code and a marker behind that, and sometimes advice."""
    found = _TELLING.search(str(error))
    return found.group(0).strip(" .") if found else last_line(error)


def from_script(module: Any, request: ModelRequest, stem: str, notes: list[str]) -> ModelSource:
    """A ModelSource of a loaded ScriptModule."""
    if not hasattr(module, "forward"):
        msg = f"{stem}: the TorchScript module has no forward method"
        raise ModelError(msg, hint="script or trace a module with a forward")
    scriptfix.to_inference(module, notes)
    reader = GraphReader(module)
    loaded = Loaded(
        kind=ModelKind.TORCHSCRIPT,
        stem=stem,
        module=module,
        parameters=tuple(arguments.script_parameters(module)),
        hints=reader.items,
        facts=reader.facts,
        notes=tuple(notes),
    )
    return resolve(loaded, request)
