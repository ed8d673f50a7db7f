"""FlatModule: a model with tensors in and a tuple of tensors out, whatever its own arguments and outputs look like."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from edgebuild.model.source import Argument, ConstantArgument, ModelSource, NestedArgument, TensorArgument


def bind(argument: Argument, tensors: tuple[Any, ...]) -> Any:
    """The value of one argument of ``forward``, with ``tensors`` in signature order put in place."""
    if isinstance(argument, TensorArgument):
        return tensors[argument.index]
    if isinstance(argument, ConstantArgument):
        return argument.value
    assert isinstance(argument, NestedArgument)
    items = [bind(item, tensors) for item in argument.items]
    if argument.kind == "dict":
        return dict(zip(argument.keys, items, strict=True))
    return tuple(items) if argument.kind == "tuple" else items


def iterate_tensors(value: Any) -> Iterator[Any]:
    """The tensors in an output, depth first, in the order of its tuples, lists and dicts; constants are passed over."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from iterate_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from iterate_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from iterate_tensors(getattr(value, field.name))


class FlatModule(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Calls ``module`` with constants bound and nested arguments rebuilt; returns its tensors as one flat tuple."""

    def __init__(self, module: Any, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> None:
        super().__init__()
        self.module = module
        self._arguments = args
        self._keywords = dict(kwargs)

    def forward(self, *tensors: Any) -> tuple[Any, ...]:
        args = [bind(argument, tensors) for argument in self._arguments]
        kwargs = {name: bind(argument, tensors) for name, argument in self._keywords.items()}
        return tuple(iterate_tensors(self.module(*args, **kwargs)))


def flat_module(source: ModelSource, module: Any = None) -> FlatModule:
    """``source``'s module (or ``module`` in its stead) as a FlatModule in inference mode."""
    inner = source.module if module is None else module
    if isinstance(inner, torch.export.ExportedProgram):
        # The guards of the program speak of the ranges it was exported with; the new export makes its own.
        inner = inner.module(check_guards=False)
        return FlatModule(inner, source.args, source.kwargs)
    flat = FlatModule(inner, source.args, source.kwargs)
    flat.training = False
    return flat
