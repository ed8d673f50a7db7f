"""Loads TorchScript files: onto the CPU, into inference mode, with the signature found in the graph."""

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
        ModelError: The archive is damaged, or uses operators that this PyTorch lacks; see also ``resolve``.
    """
    import torch

    notes: list[str] = []
    try:
        with scriptfix.on_cpu(path, notes) as file:
            module = torch.jit.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        msg = f"{path}: TorchScript that PyTorch {torch.__version__} can't load: {last_line(error)}"
        raise ModelError(msg, hint="save it anew with torch.jit.save; custom operators can't be loaded") from None
    return from_script(module, request, path.stem, notes)


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
