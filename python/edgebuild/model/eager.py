"""Loads models that are Python objects: modules, factories, pickled modules, state_dicts into a factory's module."""

import copy
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebuild.errors import EdgebuildError, ModelError, UsageError
from edgebuild.model import arguments, firstlayer
from edgebuild.model.graphfacts import Facts, GraphReader
from edgebuild.model.identify import FileIdentity
from edgebuild.model.importing import import_attribute, searching
from edgebuild.model.request import ModelRequest
from edgebuild.model.resolve import Loaded, last_line, resolve
from edgebuild.model.source import ModelKind, ModelSource

_SHOWN = 5


def load_object(request: ModelRequest, module: Any) -> ModelSource:
    """A ModelSource of an object given from Python.

    Raises:
        UsageError: It is none of the supported kinds.
    """
    import torch

    stem = Path(request.path).stem if request.path else type(module).__name__
    if isinstance(module, torch.export.ExportedProgram):
        from edgebuild.model import exported

        return exported.from_program(module, request, stem, [])
    if isinstance(module, torch.jit.ScriptModule):
        from edgebuild.model import torchscript

        return torchscript.from_script(module, request, stem, [])
    if not isinstance(module, torch.nn.Module) and not isinstance(module, type) and callable(module):
        stem = Path(request.path).stem if request.path else getattr(module, "__name__", stem)
        module = _as_module(module)
    if not isinstance(module, torch.nn.Module):
        msg = f"a model is expected, got {_article(module)}"
        raise UsageError(msg, hint="give an nn.Module, a ScriptModule, an ExportedProgram, a function or a path")
    return from_module(module, request, stem, ModelKind.MODULE, [])


def _as_module(function: Callable[..., Any]) -> Any:
    import functools

    import torch

    class Function(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self._function = function

        @functools.wraps(function)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self._function(*args, **kwargs)

    return Function()


def load_factory(request: ModelRequest) -> ModelSource:
    """Makes the model with ``request.factory`` alone."""
    assert request.factory is not None
    module, stem = make(request)
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        from edgebuild.model import torchscript

        return torchscript.from_script(module, request, stem, [])
    return from_module(module, request, stem, ModelKind.MODULE, [])


def make(request: ModelRequest) -> tuple[Any, str]:
    """Imports and calls the factory; returns its module and a stem for the bundle's name.

    Raises:
        UsageError: The text is not ``package.module:factory``.
        ModelError: It can't be imported, fails, or returns something else than an ``nn.Module``.
    """
    import torch

    text = request.factory or ""
    made = found = import_attribute(
        text,
        request.search_path,
        option="--model",
        noun="factory",
        example="mynet.models:small_cnn",
        error=ModelError,
    )
    if not isinstance(found, torch.nn.Module):
        if not callable(found):
            msg = f"--model {text}: {_article(found)} can't be called"
            raise ModelError(msg, hint="name a function or class that returns an nn.Module")
        torch.manual_seed(request.seed)  # a factory without weights draws them: the same ones every time
        try:
            with searching(request.search_path):
                made = found()
        except Exception as error:  # the user's code may raise anything
            msg = f"--model {text}: the factory failed: {type(error).__name__}: {last_line(error)}"
            raise ModelError(msg, hint="a factory takes no arguments; bind them in a function of your own") from None
    if not isinstance(made, torch.nn.Module):
        msg = f"--model {text}: expected an nn.Module from the factory, got {_article(made)}"
        raise ModelError(msg, hint="return the module itself")
    return made, text.partition(":")[2].split(".")[-1]


def load_state_dict(path: Path, request: ModelRequest) -> ModelSource:
    """Loads weights, in weights-only mode, into the factory's module.

    Raises:
        ModelError: No factory; or the names and shapes of the weights are not those of the module.
    """
    import torch

    if request.factory is None:
        msg = f"{path}: a state_dict, that is weights without a model"
        raise ModelError(
            msg, hint=f"say which model they belong to: edgebuild --target T {path.name} --model package.module:factory"
        )
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        msg = f"{path}: the weights can't be loaded: {last_line(error)}"
        raise ModelError(msg, hint="save them again with torch.save(model.state_dict(), file)") from None
    return _with_weights(path, data, request)


def _with_weights(path: Path, data: Any, request: ModelRequest) -> ModelSource:
    import torch

    notes: list[str] = []
    weights = _find_weights(data, notes)
    if weights is None:
        msg = f"{path}: {_article(data)} without tensors by name; expected a state_dict"
        raise ModelError(msg, hint="save torch.save(model.state_dict(), file)")
    module, _ = make(request)
    want, have = set(module.state_dict()), set(weights)
    if want.isdisjoint(have) and have:
        for prefix in ("module.", "model.", "_orig_mod.", "net."):
            shorter = {k.removeprefix(prefix): v for k, v in weights.items()}
            if all(k.startswith(prefix) for k in weights) and not want.isdisjoint(shorter):
                weights, have = shorter, set(shorter)
                notes.append(f"the names of the weights begin with '{prefix}', which was removed")
                break
    missing, unexpected = sorted(want - have), sorted(have - want)
    if missing or unexpected:
        parts = [
            f"{len(n)} {what} ({_short(n)})" for what, n in (("missing", missing), ("unexpected", unexpected)) if n
        ]
        msg = f"{path}: the weights do not fit {request.factory}: {' and '.join(parts)}"
        raise ModelError(msg, hint="use the factory with which they were trained")
    try:
        with torch.no_grad():
            module.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()] or [last_line(error)]
        msg = f"{path}: the weights do not fit {request.factory}: {lines[0][:300]}"
        raise ModelError(msg, hint="use the factory with which they were trained, with the same sizes") from None
    return from_module(module, request, path.stem, ModelKind.STATE_DICT, notes)


def _find_weights(data: Any, notes: list[str]) -> Mapping[str, Any] | None:
    """The state_dict itself, or the one inside a training checkpoint."""
    import torch

    def tensors(item: Any) -> bool:
        return isinstance(item, Mapping) and any(isinstance(v, torch.Tensor) for v in item.values())

    if tensors(data):
        return {str(k): v for k, v in data.items()}
    if isinstance(data, Mapping):
        for key in ("state_dict", "model_state_dict", "model", "net", "weights", "ema"):
            if key in data and tensors(data[key]):
                notes.append(f"the file is a training checkpoint; the weights under '{key}' were used")
                return {str(k): v for k, v in data[key].items()}
    return None


def _short(names: Sequence[str]) -> str:
    more = f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def load_pickle(path: Path, request: ModelRequest, identity: FileIdentity) -> ModelSource:
    """Loads a pickled module, which can run anything, so only with ``request.trust``.

    Raises:
        ModelError: It is not trusted, its classes are missing, or it holds no module.
    """
    import torch

    if not request.trust:
        what = _short(identity.classes) if identity.classes else "nothing by name"
        msg = f"{path}: {identity.description}; loading it runs code (it imports {what})"
        raise ModelError(
            msg,
            hint="if you trust its origin, add --trust-model; better: save it with torch.jit.save or torch.export.save",
        )
    try:
        with searching(request.search_path):
            data = torch.load(path, map_location="cpu", weights_only=False)
    except (ModuleNotFoundError, AttributeError) as error:
        msg = f"{path}: the pickle needs a class that is not there: {last_line(error)}"
        raise ModelError(msg, hint="run from the folder of the code that defines it, or install that package") from None
    except Exception as error:  # a pickle may raise anything
        msg = f"{path}: the pickle can't be loaded: {type(error).__name__}: {last_line(error)}"
        raise ModelError(msg, hint="save it again, with this version of PyTorch") from None
    if isinstance(data, torch.jit.ScriptModule):
        from edgebuild.model import torchscript

        return torchscript.from_script(data, request, path.stem, [])
    if isinstance(data, torch.nn.Module):
        return from_module(data, request, path.stem, ModelKind.PICKLED_MODULE, [])
    if isinstance(data, Mapping):
        for key in ("model", "module", "net", "ema"):
            if isinstance(data.get(key), torch.nn.Module):
                note = f"the file is a training checkpoint; the module under '{key}' was used"
                return from_module(data[key], request, path.stem, ModelKind.PICKLED_MODULE, [note])
        if request.factory is not None:
            return _with_weights(path, data, request)
    msg = f"{path}: the pickle holds {_article(data)}, expected an nn.Module"
    raise ModelError(msg, hint="save the module itself, or its state_dict and give --model package.module:factory")


def from_module(module: Any, request: ModelRequest, stem: str, kind: ModelKind, notes: list[str]) -> ModelSource:
    """A ModelSource of an ``nn.Module``, on the CPU and in inference mode; the caller's own object is not changed."""
    devices = {str(t.device) for t in (*module.parameters(), *module.buffers())} - {"cpu"}
    if "meta" in devices:
        msg = f"{stem}: the module's weights are on the 'meta' device, so it has none"
        raise ModelError(msg, hint="load the weights before handing the module over")
    training = any(part.training for part in module.modules())
    if kind is ModelKind.MODULE and (devices or training):
        try:
            module = copy.deepcopy(module)
        except Exception:  # some modules can't be copied: then the change is made in place and said
            notes.append("the module can't be copied; it was itself moved to the CPU and put into inference mode")
    if devices:
        module = module.cpu()
        notes.append(f"the module was moved from {', '.join(sorted(devices))} to the CPU")
    if training:
        module.eval()
        if kind is not ModelKind.STATE_DICT and request.factory is None:
            notes.append("the module was in training mode; it was put into inference mode (eval)")
    function = getattr(module, "_function", None) if type(module).__name__ == "Function" else None
    forward = function or module.forward
    loaded = Loaded(
        kind=kind,
        stem=stem,
        module=module,
        parameters=tuple(arguments.python_parameters(forward)),
        hints=lambda path: _reader_items(module, path),
        facts=lambda paths: _facts(module, paths),
        notes=tuple(notes),
    )
    return resolve(loaded, request)


def _facts(module: Any, paths: Sequence[str]) -> Mapping[str, Facts]:
    """Facts from the scripted module if it can be scripted, else from its first layer."""
    reader = _reader(module)
    if reader is not None:
        return reader.facts(paths)
    return firstlayer.facts(module, paths)


def _reader_items(module: Any, path: str) -> Sequence[str]:
    reader = _reader(module)
    return reader.items(path) if reader is not None else ()


def _reader(module: Any) -> GraphReader | None:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return GraphReader(torch.jit.script(module))
    except EdgebuildError:
        raise
    except Exception:  # most Python code can't be scripted
        return None


def _article(item: Any) -> str:
    return "None" if item is None else f"an object of type {type(item).__module__}.{type(item).__qualname__}"
