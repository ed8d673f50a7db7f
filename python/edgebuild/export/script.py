"""The TorchScript form of a model, which LibTorch loads: tensors in, the model's own outputs out, frozen, with reproducible bytes."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.errors import EdgebuildError, ModelError
from edgebuild.export.arrays import Array, to_numpy, to_torch
from edgebuild.export.failure import summary
from edgebuild.export.flat import flat_module, iterate_tensors
from edgebuild.export.rundepth import measured_depths
from edgebuild.export.script_archive import rewrite_archive
from edgebuild.model.source import (
    Argument,
    ConstantArgument,
    Inputs,
    ModelKind,
    ModelSource,
    NestedArgument,
    TensorArgument,
)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A written archive.

    Args:
        path: The archive.
        origin: How the module became TorchScript, e.g. "torch.jit.script".
        inputs: Names of ``forward``'s arguments in signature order.
        keeps_state: Whether ``forward`` changes the module.
        sized_by_data: Whether the sizes of outputs may come from the values of inputs.
        precision: What most weights are stored in, by the manifest's names; "int8" if anything is quantised.
    """

    path: Path
    origin: str
    inputs: tuple[str, ...]
    keeps_state: bool
    sized_by_data: bool
    precision: str


_SIZED_BY_DATA = re.compile(
    r"aten::(nonzero|nonzero_numpy|_?unique2?|unique_dim|unique_consecutive|masked_select|index|where|item|Int|bincount|repeat_interleave)"
    r"|prim::Loop|torchvision::nms"
)


def write_script(source: ModelSource, path: Path) -> Script:
    """Writes a model's TorchScript form.

    Raises:
        ModelError: The model has none: it is ONNX, or neither scripting nor tracing can do it.
    """
    import torch

    if source.kind is ModelKind.ONNX:
        msg = f"model {source.name} is ONNX, which LibTorch can't run"
        raise ModelError(msg, hint="leave --backend libtorch out, or pass the PyTorch model")
    module, origin, args, kwargs = _as_script(source)
    names = tuple(f"in_{index}" for index in range(len(source.inputs)))
    try:
        flat = _bound(module, names, args, kwargs)
    except RuntimeError as error:
        msg = f"model {source.name} can't be wrapped in TorchScript: {summary(error)}"
        raise ModelError(msg, hint="give forward tensors, or lists, tuples and dicts of them") from error
    flat.eval()
    try:
        final = torch.jit.freeze(flat)
    except RuntimeError:  # what it can't freeze (an interface, a class of the user's) runs as it is
        final = flat
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".script-") as scratch:
        saved = Path(scratch) / "saved.pt"
        try:
            torch.jit.save(final, str(saved))
        except RuntimeError as error:
            msg = f"model {source.name} can't be saved as TorchScript: {summary(error)}"
            raise ModelError(msg, hint="custom operators and classes written in C++ can't go into a bundle") from error
        rewrite_archive(saved, path)
    graph = final.inlined_graph if final is flat else final.graph
    kept = ("prim::SetAttr",) if final is flat else ("prim::SetAttr", "prim::GetAttr")
    return Script(
        path=path,
        origin=origin,
        inputs=names,
        keeps_state=any(graph.findAllNodes(kind, recurse=True) for kind in kept),
        sized_by_data=any(_sizes_by_data(node) for node in _nodes(graph)),
        precision=_precision(source.module, graph),
    )


class ScriptEngine:
    """A written archive, run as the runner's plugin does: loaded anew, optimised for inference."""

    def __init__(self, path: Path) -> None:
        import torch

        self._module = torch.jit.load(str(path), map_location="cpu")
        if not hasattr(self._module, "training"):  # a frozen one
            self._module = torch.jit.optimize_for_inference(self._module)

    def tensors(self, values: Sequence[Array]) -> list[Any]:
        """The tensors that ``forward`` returns, depth first."""
        return list(iterate_tensors(self._module(*(to_torch(np.asarray(value)) for value in values))))

    def run(self, values: Sequence[Array]) -> list[Array]:
        """Outputs in signature order for inputs in signature order."""
        return [to_numpy(tensor) for tensor in self.tensors(values)]


def relative_tolerances(
    engine: ScriptEngine, names: Sequence[str], inputs: Sequence[str], samples: Sequence[Inputs]
) -> Mapping[str, float]:
    """For each output the tolerance that its depth allows, as a part of its largest magnitude; the deepest of three samples."""
    worst = dict.fromkeys(names, 0.0)
    for sample in samples[:3]:
        values = [np.asarray(sample[name]) for name in inputs]
        depths = measured_depths(lambda values=values: engine.tensors(values))  # type: ignore[misc]
        for name, depth in zip(names, depths, strict=True):
            worst[name] = max(worst[name], depth.relative)
    return worst


def _as_script(source: ModelSource) -> tuple[Any, str, Sequence[Argument], Mapping[str, Argument]]:
    """The model as a ScriptModule, how it became one, and its arguments."""
    import torch

    if isinstance(source.module, torch.jit.ScriptModule):
        return source.module, "TorchScript as given", source.args, source.kwargs
    reasons = []
    if not isinstance(source.module, torch.export.ExportedProgram):
        try:
            return torch.jit.script(source.module), "torch.jit.script", source.args, source.kwargs
        except Exception as error:  # whatever the user's code makes the compiler stumble on
            reasons.append(f"torch.jit.script: {summary(error)}")
    try:
        traced = _traced(source)
    except EdgebuildError:
        raise
    except Exception as error:
        reasons.append(f"torch.jit.trace: {summary(error)}")
        msg = f"model {source.name} has no TorchScript form; tried {'; '.join(reasons)}"
        raise ModelError(msg, hint="write forward so that torch.jit.script takes it") from error
    return traced, "torch.jit.trace", [TensorArgument(index=index) for index in range(len(source.inputs))], {}


def _traced(source: ModelSource) -> Any:
    """A trace, refused where Python decided by a tensor's value; what the trace changed in the module is put back."""
    import torch

    from edgebuild.export.chain import no_decisions
    from edgebuild.model.probe import State

    tensors = tuple(to_torch(np.asarray(source.samples[0][spec.name])) for spec in source.inputs)
    state = State(source.module)
    try:
        with torch.no_grad(), no_decisions():
            return torch.jit.trace(flat_module(source), tensors, check_trace=False)
    finally:
        state.restore()


def _bound(module: Any, names: Sequence[str], args: Sequence[Argument], kwargs: Mapping[str, Argument]) -> Any:
    """A ScriptModule that takes tensors alone and calls ``module`` with the constants that the build was given.

    Written as code, not traced: control flow inside stays what it is.
    """
    import torch

    class Bound(torch.jit.ScriptModule):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.module = module

    words = [_expression(argument, names) for argument in args]
    words += [f"{name}={_expression(argument, names)}" for name, argument in kwargs.items()]
    bound = Bound()
    bound.define(f"def forward(self, {', '.join(names)}):\n    return self.module({', '.join(words)})\n")
    return bound


def _expression(argument: Argument, names: Sequence[str]) -> str:
    """An argument as TorchScript code."""
    if isinstance(argument, TensorArgument):
        return names[argument.index]
    if isinstance(argument, ConstantArgument):
        value = argument.value
        return f'float("{value}")' if isinstance(value, float) else repr(value)
    assert isinstance(argument, NestedArgument)
    items = [_expression(item, names) for item in argument.items]
    if argument.kind == "dict":
        return "{" + ", ".join(f"{key!r}: {item}" for key, item in zip(argument.keys, items, strict=True)) + "}"
    if argument.kind == "tuple":
        return "(" + "".join(f"{item}, " for item in items) + ")"
    return "[" + ", ".join(items) + "]"


def _precision(module: Any, graph: Any) -> str:
    if any(node.kind().startswith("quantized::") for node in _nodes(graph)):
        return "int8"
    sizes: dict[str, int] = {}
    for tensor in module.state_dict().values():
        name = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
        if name in ("float64", "float32", "float16", "bfloat16"):
            sizes[name] = sizes.get(name, 0) + tensor.numel()
    return max(sizes, key=lambda name: sizes[name]) if sizes else "float32"


def _nodes(block: Any) -> Iterator[Any]:
    """Nodes of a graph and of the blocks inside it."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _sizes_by_data(node: Any) -> bool:
    branches = node.kind() == "prim::If" and any(out.type().kind() == "TensorType" for out in node.outputs())
    return branches or _SIZED_BY_DATA.fullmatch(node.kind()) is not None
