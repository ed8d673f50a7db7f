"""Values at the border between numpy and torch: element types, argument trees, nested outputs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from edgebuild.errors import ModelError, UsageError
from edgebuild.model.signature import DTYPES, Structure, TensorType, ValueSpec
from edgebuild.model.source import Argument, ConstantArgument, Inputs, NestedArgument, TensorArgument

# Names in torch that differ from ours.
_TORCH_NAMES = {"float4_e2m1fn": "float4_e2m1fn_x2"}
_ML_DTYPES = {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
}
FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64")


def numpy_dtype(name: str) -> "np.dtype[Any]":
    """The numpy type of our type ``name``; ml_dtypes has those that numpy lacks."""
    if name in _ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    if name == "string":
        return np.dtype(object)
    return np.dtype(name)


def torch_dtype(name: str) -> Any:
    """The torch type of our type ``name``.

    Raises:
        UsageError: torch has no such type.
    """
    import torch

    found = getattr(torch, _TORCH_NAMES.get(name, name), None)
    if not isinstance(found, torch.dtype):
        msg = f"dtype '{name}' does not exist in PyTorch"
        raise UsageError(msg, hint="types are float32, float16, bfloat16, float64, int64, int32, uint8, bool, …")
    return found


def dtype_name(dtype: Any) -> str:
    """Our name of a torch type or a numpy type."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        msg = f"element type {name} can't be an input or an output"
        raise ModelError(msg, hint="convert it inside the model, e.g. to float32 or int64")
    return name


def to_tensor(array: Any) -> Any:
    """A torch tensor with a copy of ``array``, so that a model that writes into its input can't change the sample."""
    import torch

    array = np.asarray(array)
    name = array.dtype.name
    if name in _ML_DTYPES:
        bits = np.dtype(f"int{array.dtype.itemsize * 8}")
        raw = np.array(array).view(bits)
        return torch.from_numpy(raw).view(torch_dtype(name))
    return torch.from_numpy(np.array(array, order="C", copy=True))


def to_numpy(tensor: Any) -> "np.ndarray[Any, Any]":
    """A numpy copy of a torch tensor of any device, layout and element type."""
    import torch

    tensor = tensor.detach()
    if tensor.is_sparse or tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    name = dtype_name(tensor.dtype)
    if name in _ML_DTYPES:
        bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
        return np.array(tensor.view(bits).numpy().view(numpy_dtype(name)))
    return np.array(tensor.numpy())


def spec_of(name: str, array: Any) -> ValueSpec:
    """The specification of one numpy array as an input."""
    return ValueSpec(name=name, type=TensorType(dtype=dtype_name(array.dtype), shape=tuple(array.shape)))


def bind(argument: Argument, tensors: Sequence[Any]) -> Any:
    """Builds the Python value of one argument of ``forward`` from the flat tensors."""
    if isinstance(argument, TensorArgument):
        return tensors[argument.index]
    if isinstance(argument, ConstantArgument):
        return argument.value
    items = [bind(item, tensors) for item in argument.items]
    if argument.kind == "dict":
        return dict(zip(argument.keys, items, strict=True))
    return tuple(items) if argument.kind == "tuple" else items


def leaves(argument: Argument) -> list[int]:
    """Indices of the tensors inside an argument."""
    if isinstance(argument, TensorArgument):
        return [argument.index]
    if isinstance(argument, NestedArgument):
        return [index for item in argument.items for index in leaves(item)]
    return []


@dataclass(frozen=True, kw_only=True)
class Call:
    """How ``forward`` is called: names of the flat tensors, and the trees that hold them."""

    names: tuple[str, ...]
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]

    def run(self, module: Callable[..., Any], inputs: Inputs) -> Any:
        """Calls ``module`` with one input set, without gradients; returns what it returns."""
        import torch

        tensors = [to_tensor(inputs[name]) for name in self.names]
        # Without the profiling executor: it compiles anew for every shape that is tried.
        with torch.no_grad(), torch.jit.optimized_execution(False):
            return module(
                *(bind(argument, tensors) for argument in self.args),
                **{name: bind(argument, tensors) for name, argument in self.kwargs.items()},
            )


def flatten_outputs(value: Any) -> tuple[list[tuple[str, Any]], Structure]:
    """Flattens what a model returned into named tensors.

    One tensor is ``output``; the items of a tuple or list ``output_0``, ``output_1``, …; of a dict or a named tuple their keys;
    deeper levels are joined with ``.``. Names are unique and made of ``[A-Za-z0-9_.-]``.

    Returns:
        ``(name, tensor)`` in order, and the structure that nests them.

    Raises:
        ModelError: The model returned something that is neither tensor, container, nor scalar; or no tensor at all.
    """
    import torch

    flat: list[tuple[str, Any]] = []
    names: set[str] = set()

    def items(kind: str, parts: Sequence[tuple[str, Any]], path: str) -> Structure:
        inner = [walk(part, _join(path, key)) for key, part in parts]
        return {kind: inner}

    def walk(item: Any, path: str) -> Structure:
        if isinstance(item, torch.Tensor):
            flat.append((unique_name(path or "output", names), item))
            return {"tensor": len(flat) - 1}
        if item is None or isinstance(item, bool | int | float | str):
            return {"constant": item}
        if hasattr(item, "items") and hasattr(item, "keys"):
            pairs = [(str(key), part) for key, part in item.items()]
            return {"dict": [[key, walk(part, _join(path, key))] for key, part in pairs]}
        if isinstance(item, tuple | list):
            named = getattr(item, "_fields", None)
            if named is not None:
                return items("tuple", list(zip(named, item, strict=True)), path)
            prefix = "" if path else "output_"
            kind = "list" if isinstance(item, list) else "tuple"
            return items(kind, [(f"{prefix}{i}", part) for i, part in enumerate(item)], path)
        if is_dataclass(item) and not isinstance(item, type):
            pairs = [(f.name, getattr(item, f.name)) for f in fields(item)]
            return {"dict": [[key, walk(part, _join(path, key))] for key, part in pairs]}
        msg = f"the model returned {_kind(item)} at {path or 'top level'}: expected tensors, or tuples, lists, dicts of them"
        raise ModelError(msg, hint="wrap the model so that forward returns tensors")

    structure = walk(value, "")
    if not flat:
        msg = f"the model returned no tensor, but {_kind(value)}"
        raise ModelError(msg, hint="forward must return at least one tensor")
    return flat, structure


def unique_name(wanted: str, taken: set[str]) -> str:
    """``wanted`` with odd characters replaced, made unique among ``taken``, and added to it."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", wanted) or "value"
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(item: Any) -> str:
    return "None" if item is None else f"a value of type {type(item).__name__}"
