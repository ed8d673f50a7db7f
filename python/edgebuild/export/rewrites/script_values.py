"""Values between TorchScript and ``torch.ops``: enumerations, devices, numbers that a trace keeps as tensors."""

import functools
import math
from typing import Any

import torch

DTYPES: tuple[torch.dtype, ...] = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32),
    torch.bfloat16,
)
"""By c10::ScalarType, the number that TorchScript stores."""

_MEMORY_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
_LAYOUTS = (torch.strided, torch.sparse_coo)
_NUMBERS = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a Python or symbolic number."""
    return isinstance(value, _NUMBERS)


def to_cpu_device(value: Any) -> Any:
    """Devices become the CPU, wherever the file was saved; other values pass."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def number_to_tensor(value: Any) -> torch.Tensor:
    """A 0-d tensor as TorchScript's NumToTensor makes it: int64, float64 or bool."""
    if isinstance(value, (bool, torch.SymBool)):
        return torch.scalar_tensor(value, dtype=torch.bool)
    if isinstance(value, (int, torch.SymInt)):
        return torch.scalar_tensor(value, dtype=torch.int64)
    return torch.scalar_tensor(value, dtype=torch.float64)


def constant_number(value: Any) -> Any:
    """The Python number of a 0-d constant that is a real (not a traced) tensor, else None."""
    from torch._subclasses.fake_tensor import FakeTensor

    if is_number(value):
        return value
    if type(value) is torch.Tensor and value.dim() == 0 and not isinstance(value, FakeTensor):
        from torch._subclasses.functional_tensor import FunctionalTensor

        if not isinstance(value, FunctionalTensor) and not torch._is_functional_tensor(value):
            return value.item()
    return None


@functools.cache
def _operator(schema: str) -> tuple[Any, tuple[tuple[str, str, bool], ...]]:
    """The overload of a schema's text, and (name, type, keyword only) of each argument."""
    qualified = schema.split("(", 1)[0]
    namespace, rest = qualified.split("::", 1)
    name, _, overload = rest.partition(".")
    operator = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    arguments = tuple((a.name, str(a.type), bool(a.kwarg_only)) for a in operator._schema.arguments)
    return operator, arguments


def _convert(name: str, kind: str, value: Any) -> Any:
    if value is None:
        return None
    if name in ("dtype", "output_dtype", "out_dtype") and isinstance(value, int) and not isinstance(value, bool):
        return DTYPES[value]
    if name == "memory_format" and isinstance(value, int):
        return _MEMORY_FORMATS[value]
    if name == "layout" and isinstance(value, int):
        return _LAYOUTS[value]
    if name == "device":
        return torch.device("cpu")
    if kind in ("Tensor", "Optional[Tensor]") and is_number(value):
        return number_to_tensor(value)
    if kind in ("List[Tensor]", "List[Optional[Tensor]]") and isinstance(value, (list, tuple)):
        return [number_to_tensor(item) if is_number(item) else item for item in value]
    if kind in ("List[int]", "Optional[List[int]]") and isinstance(value, (list, tuple)):
        return [int_of(item) for item in value]
    if kind in ("int", "Optional[int]") and isinstance(value, torch.Tensor):
        return int_of(value)
    return value


def int_of(value: Any) -> Any:
    """An int (or symbolic int) of a number or a 0-d tensor; a traced tensor becomes a value known only at run time."""
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, float):
        return math.trunc(value)
    return value


def call_operator(node: Any, inputs: list[Any]) -> Any:
    """Calls the ATen (or custom) operator of ``node``."""
    operator, arguments = _operator(node.schema())
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for (name, kind, keyword_only), value in zip(arguments, inputs, strict=True):
        converted = _convert(name, kind, value)
        if keyword_only:
            keywords[name] = converted
        else:
            positional.append(converted)
    return operator(*positional, **keywords)
