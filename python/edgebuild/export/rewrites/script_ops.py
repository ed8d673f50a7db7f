"""TorchScript's operators on Python values: numbers, lists, tuples, dicts, strings, sizes."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from edgebuild.export.rewrites.nested import Nested
from edgebuild.export.rewrites.script_values import DTYPES, constant_number, int_of, is_number

Handler = Callable[[Any, list[Any]], Any]
"""(node, input values) -> result, a tuple of results for several outputs, or NotImplemented: not for these values."""

PYTHON_OPS: dict[str, Handler] = {}


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Registers a function as the meaning of TorchScript operators."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            PYTHON_OPS[kind] = handler
        return handler

    return register


def _truncated_div(left: Any, right: Any) -> Any:
    if all(isinstance(value, (int, torch.SymInt)) for value in (left, right)):
        return left // right  # only sizes and counts come here: not negative
    return math.trunc(left / right)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "mul": operator.mul,
    "div": operator.truediv,
    "true_divide": operator.truediv,
    "floordiv": operator.floordiv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "lt": operator.lt,
    "gt": operator.gt,
    "le": operator.le,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "minimum": min,
    "maximum": max,
    "logical_and": lambda a, b: bool(a) and bool(b),
    "logical_or": lambda a, b: bool(a) or bool(b),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": operator.neg,
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "trunc": math.trunc,
    "__not__": operator.not_,
    "logical_not": operator.not_,
    "detach": lambda value: value,
    "clone": lambda value: value,
    "alias": lambda value: value,
}


def scalar_result(kind: str, inputs: Sequence[Any]) -> Any:
    """The result of an arithmetic operator where all operands are numbers (also those a trace kept as 0-d tensors).

    NotImplemented if one is a traced tensor, or the operator is none of arithmetic.
    """
    if not kind.startswith("aten::"):
        return NotImplemented
    name = kind.removeprefix("aten::").rstrip("_") if not kind.endswith("__") else kind.removeprefix("aten::")
    if not inputs or not any(is_number(value) for value in inputs[:2]):
        return NotImplemented
    if name in ("add", "sub", "rsub") and len(inputs) in (2, 3):
        left, right = constant_number(inputs[0]), constant_number(inputs[1])
        if left is None or right is None:
            return NotImplemented
        scale = inputs[2] if len(inputs) == 3 else 1
        if name == "rsub":
            return right - left * scale
        return left + right * scale if name == "add" else left - right * scale
    if name in _BINARY and len(inputs) in (2, 3):
        left, right = constant_number(inputs[0]), constant_number(inputs[1])
        if left is None or right is None:
            return NotImplemented
        if len(inputs) == 3:
            mode = inputs[2]
            if mode == "trunc":
                return _truncated_div(left, right)
            return left // right if mode == "floor" else left / right
        return _BINARY[name](left, right)
    if name in _UNARY:
        value = constant_number(inputs[0])
        return NotImplemented if value is None else _UNARY[name](value)
    if name in ("to", "type_as"):
        return _cast(inputs)
    return NotImplemented


def traced_scalar_result(node: Any, inputs: Sequence[Any]) -> Any:
    """Integer arithmetic with the step of a scan, which is a traced 0-d tensor; NotImplemented for anything else."""
    kind = node.kind()
    if not kind.startswith("aten::") or node.outputsSize() != 1 or len(inputs) != 2:
        return NotImplemented
    if node.output().type().kind() not in ("IntType", "BoolType") or not any(
        isinstance(value, torch.Tensor) for value in inputs
    ):
        return NotImplemented
    if not all(isinstance(value, (int, torch.SymInt)) or _is_step(value) for value in inputs):
        return NotImplemented
    function = {**_BINARY, "add": operator.add, "sub": operator.sub}.get(kind.removeprefix("aten::"))
    return NotImplemented if function is None else function(inputs[0], inputs[1])


def _is_step(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 0 and value.dtype == torch.int64


def _cast(inputs: Sequence[Any]) -> Any:
    codes = [value for value in inputs[1:] if isinstance(value, int) and not isinstance(value, bool)]
    if not codes or not 0 <= codes[0] < len(DTYPES):
        return NotImplemented
    dtype = DTYPES[codes[0]]
    if dtype == torch.int64:
        return int_of(inputs[0]) if not isinstance(inputs[0], torch.SymFloat) else NotImplemented
    return NotImplemented


@handles("prim::NumToTensor", "prim::unchecked_cast", "prim::annotate", "aten::ScalarImplicit", "aten::IntImplicit")
def _same(node: Any, inputs: list[Any]) -> Any:
    value = inputs[0]
    if node.kind() in ("aten::ScalarImplicit", "aten::IntImplicit") and isinstance(value, torch.Tensor):
        return value.item()
    return value


@handles("prim::unchecked_unwrap_optional", "aten::_unwrap_optional")
def _unwrap(node: Any, inputs: list[Any]) -> Any:
    if inputs[0] is None:
        message = "None where a value is needed"
        raise ValueError(message)
    return inputs[0]


@handles("aten::Int", "aten::item")
def _int(node: Any, inputs: list[Any]) -> Any:
    value = inputs[0]
    if isinstance(value, torch.Tensor):
        number = value.item()
        return int_of(number) if node.kind() == "aten::Int" and isinstance(number, (float, bool)) else number
    if isinstance(value, str):
        return int(value)
    return value if node.kind() == "aten::item" else int_of(value)


@handles("aten::Float", "aten::FloatImplicit")
def _float(node: Any, inputs: list[Any]) -> Any:
    value = inputs[0]
    if isinstance(value, torch.Tensor):
        return value.item()
    return torch.sym_float(value) if isinstance(value, torch.SymInt) else float(value)


@handles("aten::Bool")
def _bool(node: Any, inputs: list[Any]) -> Any:
    return bool(inputs[0])


@handles("prim::ListConstruct")
def _list(node: Any, inputs: list[Any]) -> Any:
    return list(inputs)


@handles("prim::TupleConstruct")
def _tuple(node: Any, inputs: list[Any]) -> Any:
    names = node.output().type()
    del names
    return tuple(inputs)


@handles("prim::DictConstruct")
def _dict(node: Any, inputs: list[Any]) -> Any:
    return dict(zip(inputs[::2], inputs[1::2], strict=True))


@handles("prim::ListUnpack", "prim::TupleUnpack")
def _unpack(node: Any, inputs: list[Any]) -> Any:
    items = list(inputs[0].unbind(0)) if isinstance(inputs[0], torch.Tensor) else list(inputs[0])
    return items[0] if node.outputsSize() == 1 else items


@handles("prim::TupleIndex")
def _tuple_index(node: Any, inputs: list[Any]) -> Any:
    return inputs[0][inputs[1]]


@handles("prim::TupleSlice")
def _tuple_slice(node: Any, inputs: list[Any]) -> Any:
    return inputs[0][node.i("beg") : node.i("end")]


@handles("prim::dtype")
def _dtype(node: Any, inputs: list[Any]) -> Any:
    if is_number(inputs[0]):
        return DTYPES.index(torch.int64 if isinstance(inputs[0], (int, torch.SymInt)) else torch.float64)
    return DTYPES.index(inputs[0].dtype)


@handles("prim::device")
def _device(node: Any, inputs: list[Any]) -> Any:
    return torch.device("cpu")


@handles("prim::layout")
def _layout(node: Any, inputs: list[Any]) -> Any:
    return 0


@handles(
    "prim::is_cuda", "prim::is_mkldnn", "prim::is_quantized", "prim::is_sparse", "prim::requires_grad", "prim::is_meta",
    "prim::is_mps", "prim::is_xpu", "prim::is_vulkan", "aten::is_grad_enabled", "aten::is_autocast_enabled",
)  # fmt: skip
def _never(node: Any, inputs: list[Any]) -> Any:
    return False


@handles("prim::is_nested")
def _is_nested(node: Any, inputs: list[Any]) -> Any:
    return isinstance(inputs[0], Nested)


@handles("prim::type")
def _device_type(node: Any, inputs: list[Any]) -> Any:
    return "cpu"


@handles("prim::Print", "aten::warn", "aten::manual_seed", "aten::_assert_async")
def _nothing(node: Any, inputs: list[Any]) -> Any:
    return None


@handles("prim::Uninitialized", "prim::AutogradZero")
def _none(node: Any, inputs: list[Any]) -> Any:
    return None


@handles("prim::RaiseException")
def _raise(node: Any, inputs: list[Any]) -> Any:
    message = f"the model raises: {inputs[0]}"
    raise ValueError(message)


@handles("prim::isinstance")
def _isinstance(node: Any, inputs: list[Any]) -> Any:
    types = [str(kind) for kind in node.tys("types")]
    if isinstance(inputs[0], torch.Tensor):
        return any(kind == "Tensor" or kind.startswith("Union[Tensor") for kind in types)
    if types == ["Tensor"]:
        return False
    message = "a type test at run time"
    raise NotImplementedError(message)


@handles("prim::min", "prim::max")
def _extreme(node: Any, inputs: list[Any]) -> Any:
    function: Callable[..., Any] = torch.sym_min if node.kind() == "prim::min" else torch.sym_max
    values = list(inputs[0]) if len(inputs) == 1 else inputs
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


@handles("aten::size")
def _size(node: Any, inputs: list[Any]) -> Any:
    if is_number(inputs[0]):
        return []
    return list(inputs[0].shape) if len(inputs) == 1 else inputs[0].shape[inputs[1]]


@handles("aten::dim")
def _dim(node: Any, inputs: list[Any]) -> Any:
    return 0 if is_number(inputs[0]) else inputs[0].dim()


@handles("aten::numel")
def _numel(node: Any, inputs: list[Any]) -> Any:
    return 1 if is_number(inputs[0]) else inputs[0].numel()


@handles("prim::shape")
def _shape(node: Any, inputs: list[Any]) -> Any:
    return list(inputs[0].shape)


@handles("prim::data")
def _data(node: Any, inputs: list[Any]) -> Any:
    return inputs[0].detach()


@handles("aten::len")
def _len(node: Any, inputs: list[Any]) -> Any:
    return inputs[0].shape[0] if isinstance(inputs[0], torch.Tensor) else len(inputs[0])


@handles("aten::__range_length")
def _range_length(node: Any, inputs: list[Any]) -> Any:
    low, high, step = inputs
    if isinstance(low, int) and isinstance(high, int):
        return len(range(low, high, step))
    return (high - low + step - (1 if step > 0 else -1)) // step


@handles("aten::__derive_index")
def _derive_index(node: Any, inputs: list[Any]) -> Any:
    return inputs[1] + inputs[0] * inputs[2]


@handles("aten::__is__")
def _is(node: Any, inputs: list[Any]) -> Any:
    return inputs[0] is inputs[1]


@handles("aten::__isnot__")
def _is_not(node: Any, inputs: list[Any]) -> Any:
    return inputs[0] is not inputs[1]


@handles("aten::eq", "aten::ne")
def _equal(node: Any, inputs: list[Any]) -> Any:
    if any(isinstance(value, torch.Tensor) or is_number(value) for value in inputs):
        return NotImplemented
    return (inputs[0] == inputs[1]) == (node.kind() == "aten::eq")


@handles("aten::__not__")
def _not(node: Any, inputs: list[Any]) -> Any:
    return not inputs[0]


@handles("aten::tensor", "aten::as_tensor")
def _tensor(node: Any, inputs: list[Any]) -> Any:
    value, dtype = inputs[0], inputs[1] if len(inputs) > 1 else None
    kind = DTYPES[dtype] if isinstance(dtype, int) else dtype
    if isinstance(value, torch.Tensor):
        return value if kind is None else value.to(kind)
    if isinstance(value, list) and any(isinstance(item, (torch.SymInt, torch.Tensor)) for item in value):
        items = [
            item if isinstance(item, torch.Tensor) else torch.scalar_tensor(item, dtype=torch.int64) for item in value
        ]
        stacked = torch.stack(items)
        return stacked if kind is None else stacked.to(kind)
    if isinstance(value, (torch.SymInt, torch.SymFloat)):
        return torch.scalar_tensor(value, dtype=kind or torch.int64)
    return torch.tensor(value, dtype=kind)
