"""Loads torch.export programs (.pt2), in weights-only mode."""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebuild.errors import ModelError
from edgebuild.model.pt2_devices import copy_on_cpu, foreign_devices
from edgebuild.model.request import ModelRequest
from edgebuild.model.resolve import Loaded, last_line, resolve
from edgebuild.model.signature import Dim, SymbolRange, TensorType, ValueSpec
from edgebuild.model.source import Argument, ConstantArgument, ModelKind, ModelSource, NestedArgument, TensorArgument
from edgebuild.model.values import Call, dtype_name, unique_name

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load(path: Path, request: ModelRequest) -> ModelSource:
    """Loads a .pt2 file. What is pickled in it is read in weights-only mode unless ``request.trust``.

    Raises:
        ModelError: It is damaged, of another version, or holds more than weights and is not trusted.
    """
    import torch

    notes: list[str] = []
    foreign = () if torch.cuda.is_available() else foreign_devices(path)
    try:
        with _weights_only(not request.trust), tempfile.NamedTemporaryFile(suffix=".pt2") as copy:
            if foreign:
                copy_on_cpu(path, Path(copy.name))
                notes.append(f"the program was moved from {', '.join(foreign)} to the CPU")
            program = torch.export.load(copy.name if foreign else str(path))
    except Exception as error:  # the loader raises whatever the file provokes
        text = str(error)
        if not request.trust and ("weights_only" in text or "Weights only" in text or "WeightsUnpickler" in text):
            msg = f"{path}: the program holds more than weights, which would run code when loaded: {_unsafe(text)}"
            raise ModelError(msg, hint="if you trust its origin, add --trust-model") from None
        msg = f"{path}: a torch.export program that PyTorch {torch.__version__} can't load: {last_line(error)}"
        raise ModelError(msg, hint="save it again with torch.export.save of this version") from None
    return from_program(program, request, path.stem, notes)


def _unsafe(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return (lines[0] if lines else text.splitlines()[0])[:200]


@contextmanager
def _weights_only(force: bool) -> Iterator[None]:
    before = os.environ.get(_FORCE)
    if force:
        os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_FORCE, None)
        else:
            os.environ[_FORCE] = before


def from_program(program: Any, request: ModelRequest, stem: str, notes: list[str]) -> ModelSource:
    """A ModelSource of an ExportedProgram."""
    program = _on_cpu(program, notes)
    _note_training(program, notes)
    call, known, symbols = signature(program)
    module = program.module()
    loaded = Loaded(
        kind=ModelKind.TORCH_EXPORT,
        stem=stem,
        module=module,
        parameters=(),
        hints=lambda _: (),
        facts=None,
        notes=tuple(notes),
        known=known,
        symbols=symbols,
        call=call,
    )
    source = resolve(loaded, request)
    return _with_program(source, program)


def _with_program(source: ModelSource, program: Any) -> ModelSource:
    from dataclasses import replace

    return replace(source, module=program)


def _on_cpu(program: Any, notes: list[str]) -> Any:
    tensors = [*program.state_dict.values(), *program.constants.values()]
    devices = {str(t.device) for t in tensors if hasattr(t, "device")}
    named = {str(d) for node in program.graph.nodes if (d := node.kwargs.get("device")) is not None}
    wrong = sorted((devices | named) - {"cpu"})
    if not wrong:
        return program
    from torch.export.passes import move_to_device_pass

    notes.append(f"the program was moved from {', '.join(wrong)} to the CPU")
    return move_to_device_pass(program, "cpu")


def _note_training(program: Any, notes: list[str]) -> None:
    found = set()
    for node in program.graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if "dropout" in name and True in node.args[2:3]:
            found.add("dropout")
        if name.startswith("batch_norm") and node.args[5:6] == (True,):
            found.add("batch norm")
    if found:
        notes.append(
            f"the program was exported in training mode ({', '.join(sorted(found))}), which it keeps; export after model.eval()"
        )


def signature(program: Any) -> tuple[Call, dict[str, ValueSpec], dict[str, SymbolRange]]:
    """The call, the tensor inputs, and their symbols with ranges, all from the program.

    Raises:
        ModelError: The program takes something else than tensors and constants.
    """
    import torch
    from torch.export.graph_signature import InputKind
    from torch.utils import _pytree as pytree

    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    users = [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    args, kwargs = pytree.tree_unflatten(list(range(len(users))), program.call_spec.in_spec)
    examples = program.example_inputs
    flat_examples = pytree.tree_leaves(examples) if examples is not None else []
    entry = program.module_call_graph[0].signature if program.module_call_graph else None
    arg_names = list(getattr(entry, "forward_arg_names", None) or ())
    names: list[str] = []
    taken: set[str] = set()
    known: dict[str, ValueSpec] = {}
    labels: dict[str, str] = {}
    symbols: dict[str, SymbolRange] = {}

    def leaf(index: int, path: str) -> Argument:
        user = users[index]
        if not isinstance(getattr(user, "name", None), str) or user.name not in nodes or hasattr(user, "value"):
            return ConstantArgument(value=getattr(user, "value", None))
        value = nodes[user.name].meta.get("val")
        if not isinstance(value, torch.Tensor):
            msg = f"input '{path or user.name}' of the program is a {type(value).__name__}, not a tensor"
            raise ModelError(msg, hint="export it with a constant or a tensor there")
        name = unique_name(path or user.name, taken)
        example = flat_examples[index] if index < len(flat_examples) else None
        names.append(name)
        shape = tuple(_dim(value, axis, example, program, labels, symbols) for axis in range(value.ndim))
        known[name] = ValueSpec(name=name, type=TensorType(dtype=dtype_name(value.dtype), shape=shape))
        return TensorArgument(index=len(names) - 1)

    def walk(item: Any, path: str) -> Argument:
        if isinstance(item, int):
            return leaf(item, path)
        if isinstance(item, Mapping):
            keys = tuple(str(key) for key in item)
            return NestedArgument(kind="dict", items=tuple(walk(v, f"{path}.{k}") for k, v in item.items()), keys=keys)
        kind = "list" if isinstance(item, list) else "tuple"
        if item is None:
            return ConstantArgument(value=None)
        return NestedArgument(kind=kind, items=tuple(walk(v, f"{path}.{i}") for i, v in enumerate(item)))

    def top(position: int, item: Any) -> str:
        if position < len(arg_names):
            return str(arg_names[position])
        return str(users[item].name) if isinstance(item, int) and hasattr(users[item], "name") else f"arg_{position}"

    positional = tuple(walk(item, top(i, item)) for i, item in enumerate(args))
    keyword = {str(key): walk(item, str(key)) for key, item in kwargs.items()}
    return Call(names=tuple(names), args=positional, kwargs=keyword), known, symbols


def _dim(
    value: Any, axis: int, example: Any, program: Any, labels: dict[str, str], symbols: dict[str, SymbolRange]
) -> Dim:
    size = value.shape[axis]
    if isinstance(size, int):
        return size
    step, expression = size.node.expr.as_coeff_Mul()
    best = int(example.shape[axis]) if example is not None else None
    # Such as s0 + 1: fixed to what it was exported with, as one symbol stands for one number; 2*s0 is one in steps of 2.
    if not expression.is_Symbol or not step.is_Integer or step < 1:
        return best
    step = int(step)
    key = str(size.node.expr)
    if key not in labels:
        wish = "batch" if axis == 0 else f"dim_{axis}"
        labels[key] = wish if wish not in symbols else re.sub(r"\W+", "_", key)
        bounds = program.range_constraints.get(expression)
        low = int(bounds.lower) if bounds is not None and bounds.lower.is_Integer else 1
        high = int(bounds.upper) if bounds is not None and bounds.upper.is_Integer else None
        low = max(low, 1) * step
        best = best if best is not None else low
        maximum = None if high is None else high * step
        symbols[labels[key]] = SymbolRange(minimum=min(low, best), best=best, maximum=maximum, step=step)
    return labels[key]
