"""Loads a model: what came in, as one ModelSource. Runs in the worker process; imports torch where it needs it."""

from pathlib import Path
from typing import Any

from edgebuild.errors import ModelError, UsageError
from edgebuild.model import identify as files
from edgebuild.model.identify import FileKind
from edgebuild.model.request import ModelRequest
from edgebuild.model.source import ModelSource


def load(request: ModelRequest, *, module: Any = None) -> ModelSource:
    """Loads the model that ``request`` names, finds its signature, and makes samples that it accepts.

    Args:
        request: What the user said.
        module: An ``nn.Module``, ``ScriptModule``, ``ExportedProgram`` or callable given from Python; ``request.path`` is then
            only its name.

    Raises:
        ModelError: It can't be loaded, or its inputs can't be found out.
        UsageError: What the user said does not fit the model.
    """
    from edgebuild.model import eager, exported, onnx_model, torchscript

    if module is not None:
        return eager.load_object(request, module)
    if request.path is None:
        if request.factory is None:
            msg = "no model is given"
            raise UsageError(msg, hint="give a model file, or --model package.module:factory")
        return eager.load_factory(request)
    path = Path(request.path)
    identity = files.identify(path)
    if identity.kind is FileKind.TORCHSCRIPT:
        return torchscript.load(path, request)
    if identity.kind is FileKind.TORCH_EXPORT:
        return exported.load(path, request)
    if identity.kind is FileKind.ONNX:
        return onnx_model.load(path, request)
    if identity.kind is FileKind.STATE_DICT:
        return eager.load_state_dict(path, request)
    if identity.kind is FileKind.PICKLE:
        return eager.load_pickle(path, request, identity)
    msg = f"{path}: {identity.description} is not a model that can be loaded"
    raise ModelError(msg, hint=identity.hint)
