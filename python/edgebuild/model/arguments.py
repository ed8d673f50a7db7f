"""How the arguments of ``forward`` become flat, named tensors: lists, tuples and dicts are taken apart, scalars are bound."""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgebuild.errors import ModelError, UsageError
from edgebuild.model.request import ModelRequest
from edgebuild.model.source import Argument, ConstantArgument, NestedArgument, TensorArgument
from edgebuild.model.values import Call

Kind = Literal["tensor", "optional", "list", "tuple", "dict", "scalar", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Type:
    """The type of one argument; ``items`` of a list, an optional and a dict hold one entry. ``scalar``: int, float, bool, str."""

    kind: Kind
    items: tuple["Type", ...] = ()
    scalar: str = ""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of ``forward``."""

    name: str
    type: Type
    has_default: bool = False
    default: Any = None
    keyword_only: bool = False
    variadic: bool = False


Hints = Callable[[str], Sequence[str]]
"""Path of a list or dict argument -> names of its items as the model's graph uses them ("0", "1", or the keys)."""

TENSOR = Type(kind="tensor")


def script_parameters(module: Any) -> list[Parameter]:
    """Parameters of a ScriptModule's ``forward``, from its schema."""
    return [
        Parameter(
            name=argument.name,
            type=_script_type(argument.type),
            has_default=argument.has_default_value(),
            default=argument.default_value if argument.has_default_value() else None,
            keyword_only=argument.kwarg_only,
        )
        for argument in module.forward.schema.arguments[1:]  # the first is the module, whatever its name
    ]


def _script_type(kind: Any) -> Type:
    name = kind.kind()
    if name == "TensorType":
        return TENSOR
    if name == "OptionalType":
        return Type(kind="optional", items=(_script_type(kind.getElementType()),))
    if name == "ListType":
        return Type(kind="list", items=(_script_type(kind.getElementType()),))
    if name == "TupleType":
        return Type(kind="tuple", items=tuple(_script_type(element) for element in kind.elements()))
    if name == "DictType":
        return Type(kind="dict", items=(_script_type(kind.getValueType()),))
    scalars = {"IntType": "int", "FloatType": "float", "BoolType": "bool", "StringType": "str", "NumberType": "float"}
    if name in scalars:
        return Type(kind="scalar", scalar=scalars[name])
    return Type(kind="unknown", scalar=str(kind))


def python_parameters(forward: Callable[..., Any]) -> list[Parameter]:
    """Parameters of a Python ``forward``, from its signature and annotations."""
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):
        return [Parameter(name="args", type=TENSOR, variadic=True)]
    try:
        annotations = typing.get_type_hints(forward)
    except Exception:  # an annotation may name anything, also what does not exist
        annotations = {}
    found = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        annotation = annotations.get(parameter.name, parameter.annotation)
        default = None if parameter.default is inspect.Parameter.empty else parameter.default
        has_default = parameter.default is not inspect.Parameter.empty
        kind = _python_type(annotation)
        if kind.kind == "unknown":
            kind = _type_of_default(default) if has_default else TENSOR
        elif has_default and default is None and kind.kind == "tensor":
            kind = Type(kind="optional", items=(kind,))
        found.append(
            Parameter(
                name=parameter.name,
                type=kind,
                has_default=has_default,
                default=default,
                keyword_only=parameter.kind is inspect.Parameter.KEYWORD_ONLY,
                variadic=parameter.kind is inspect.Parameter.VAR_POSITIONAL,
            )
        )
    return found


def _python_type(annotation: Any) -> Type:
    import torch

    if isinstance(annotation, type):
        if issubclass(annotation, torch.Tensor):
            return TENSOR
        if annotation in (int, float, bool, str):
            return Type(kind="scalar", scalar=annotation.__name__)
    origin, parameters = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType) and type(None) in parameters:
        rest = [p for p in parameters if p is not type(None)]
        inner = _python_type(rest[0]) if len(rest) == 1 else TENSOR
        return Type(kind="optional", items=(inner,))
    if origin in (list, Sequence) or origin is typing.get_origin(typing.Sequence[int]):
        return Type(kind="list", items=(_python_type(parameters[0]),)) if parameters else Type(kind="unknown")
    if origin is tuple and parameters and parameters[-1] is not Ellipsis:
        return Type(kind="tuple", items=tuple(_python_type(p) for p in parameters))
    if origin in (dict, Mapping) and len(parameters) == 2:
        return Type(kind="dict", items=(_python_type(parameters[1]),))
    return Type(kind="unknown", scalar=str(annotation))


def _type_of_default(default: Any) -> Type:
    if default is None:
        return Type(kind="optional", items=(TENSOR,))
    if isinstance(default, bool | int | float | str):
        return Type(kind="scalar", scalar=type(default).__name__)
    return Type(kind="unknown", scalar=type(default).__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The call, and what was assumed to make it (sentences)."""

    call: Call
    assumptions: tuple[str, ...]


def plan_call(parameters: Sequence[Parameter], request: ModelRequest, sampled: Sequence[str], hints: Hints) -> Plan:
    """Decides which arguments are tensors, which are constants, and names every tensor.

    Args:
        parameters: Of ``forward``, in order.
        request: Its ``inputs`` and ``arguments`` are used.
        sampled: Names of the arrays in the sample files; empty if there are none.
        hints: What the graph shows about containers.

    Raises:
        UsageError: A name that the model does not have, or a value of the wrong type.
        ModelError: An argument needs a value that only the user can give; names the flag.
    """
    named = [entry.name for entry in request.inputs if entry.name is not None]
    doubles = sorted({name for name in named if named.count(name) > 1})
    if doubles:
        msg = f"--input '{doubles[0]}' is given twice"
        raise UsageError(msg, hint="give it once")
    given = {*named, *sampled}
    unnamed = sum(entry.name is None for entry in request.inputs)
    first = _Planner(given, request.arguments, hints, 0)
    plan = first.plan(parameters, unnamed)
    spare = unnamed - sum(name not in given for name in plan.call.names)
    if spare > 0:  # more positional inputs than needed: they are for optional arguments, in order
        plan = _Planner(given, request.arguments, hints, spare).plan(parameters, unnamed)
        spare = unnamed - sum(name not in given for name in plan.call.names)
        if spare > 0:
            msg = f"{len(request.inputs)} --input given, but the model takes {len(plan.call.names)}: {_list(plan.call.names)}"
            raise UsageError(msg, hint="drop the surplus --input")
    unknown = sorted(given - set(plan.call.names))
    if unknown:
        near = difflib.get_close_matches(unknown[0], plan.call.names, 1)
        guess = f" (did you mean '{near[0]}'?)" if near else ""
        msg = f"the model has no tensor input '{unknown[0]}'{guess}; its inputs are {_list(plan.call.names)}"
        raise UsageError(msg, hint="use the model's own argument names, or leave the name out to go by position")
    names = {parameter.name for parameter in parameters}
    wrong = sorted(set(request.arguments) - names)
    if wrong:
        msg = f"--arg {wrong[0]}: forward has no argument of that name; it has {_list(sorted(names))}"
        raise UsageError(msg, hint="use one of these names")
    return plan


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


class _Planner:
    """Walks the parameters once; ``spare`` optional tensors are taken as inputs though nobody named them."""

    def __init__(self, given: set[str], bound: Mapping[str, Any], hints: Hints, spare: int) -> None:
        self.given = given
        self.bound = bound
        self.hints = hints
        self.spare = spare
        self.names: list[str] = []
        self.assumptions: list[str] = []

    def plan(self, parameters: Sequence[Parameter], unnamed: int) -> Plan:
        args: list[Argument] = []
        kwargs: dict[str, Argument] = {}
        for parameter in parameters:
            if parameter.variadic:
                args += self._variadic(parameter, unnamed)
                continue
            argument = self._parameter(parameter)
            if parameter.keyword_only:
                kwargs[parameter.name] = argument
            else:
                args.append(argument)
        while args and isinstance(args[-1], ConstantArgument) and self._is_default(parameters, args):
            args.pop()  # a default stays the model's own business
        call = Call(names=tuple(self.names), args=tuple(args), kwargs=kwargs)
        return Plan(call=call, assumptions=tuple(self.assumptions))

    def _is_default(self, parameters: Sequence[Parameter], args: Sequence[Argument]) -> bool:
        if any(parameter.variadic for parameter in parameters):
            return False
        last = [parameter for parameter in parameters if not parameter.keyword_only][len(args) - 1]
        return (
            last.has_default and last.name not in self.bound and not isinstance(last.default, bool | int | float | str)
        )

    def _variadic(self, parameter: Parameter, unnamed: int) -> list[Argument]:
        known = [n for n in self.given if n.startswith(f"{parameter.name}.")]
        count = max(len(known), unnamed - len(self.names))
        return [self._leaf(f"{parameter.name}.{i}" if known else f"{parameter.name}_{i}") for i in range(count)]

    def _leaf(self, path: str) -> Argument:
        self.names.append(path)
        return TensorArgument(index=len(self.names) - 1)

    def _parameter(self, parameter: Parameter) -> Argument:
        if parameter.name in self.bound:
            return ConstantArgument(value=_checked(parameter, self.bound[parameter.name]))
        kind = parameter.type
        if not self._mentioned(parameter.name) and not (kind.kind == "optional" and self._spare_for(kind)):
            if parameter.has_default:
                if isinstance(parameter.default, bool | int | float | str):
                    shown = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
                    self.assumptions.append(
                        f"argument '{parameter.name}' keeps its default {shown}; override with --arg {parameter.name}=VALUE"
                    )
                elif kind.kind == "optional":
                    self._note_none(parameter.name)
                return ConstantArgument(value=parameter.default)
            if kind.kind == "optional":
                self._note_none(parameter.name)
                return ConstantArgument(value=None)
        return self._expand(kind, parameter.name)

    def _note_none(self, path: str) -> None:
        self.assumptions.append(f"optional argument '{path}' is None; override with --input '{path}:dtype[dims]'")

    def _spare_for(self, kind: Type) -> bool:
        if self.spare > 0 and kind.items and kind.items[0].kind == "tensor":
            self.spare -= 1
            return True
        return False

    def _mentioned(self, path: str) -> bool:
        return path in self.given or any(name.startswith(f"{path}.") for name in self.given)

    def _expand(self, kind: Type, path: str) -> Argument:
        if kind.kind == "tensor":
            return self._leaf(path)
        if kind.kind == "optional":
            return self._expand(kind.items[0], path)
        if kind.kind == "tuple":
            items = tuple(self._expand(item, f"{path}.{i}") for i, item in enumerate(kind.items))
            return NestedArgument(kind="tuple", items=items)
        if kind.kind in ("list", "dict"):
            return self._container(kind, path)
        if kind.kind == "scalar":
            example = {"int": "1", "float": "0.5", "bool": "true", "str": "text"}[kind.scalar]
            msg = f"argument '{path}' of forward is a Python {kind.scalar} without a default"
            raise ModelError(msg, hint=f"give its value: --arg {path}={example}")
        msg = f"argument '{path}' of forward has the type {kind.scalar or 'unknown'}, which can't be an input"
        raise ModelError(msg, hint="wrap the model so that forward takes tensors and Python scalars")

    def _container(self, kind: Type, path: str) -> Argument:
        keys = list(dict.fromkeys(n[len(path) + 1 :].split(".")[0] for n in self.given if n.startswith(f"{path}.")))
        keys = keys or list(self.hints(path))
        is_list = kind.kind == "list"
        if is_list:
            numbers = [int(key) for key in keys if key.isdigit()]
            keys = [str(i) for i in range(max(numbers) + 1)] if numbers else []
        if not keys:
            sub = f"{path}.0" if is_list else f"{path}.KEY"
            msg = f"argument '{path}' of forward is a {kind.kind} of tensors, and the number of its items is not known"
            raise ModelError(msg, hint=f"give one --input for each, e.g. --input '{sub}:float32[1,16]'")
        items = tuple(self._expand(kind.items[0], f"{path}.{key}") for key in keys)
        return NestedArgument(kind="list" if is_list else "dict", items=items, keys=() if is_list else tuple(keys))


def _checked(parameter: Parameter, value: Any) -> Any:
    kind = parameter.type
    optional = kind.kind == "optional"
    inner = kind.items[0] if optional else kind
    if value is None:
        if optional or inner.kind == "unknown" or (parameter.has_default and parameter.default is None):
            return None
        msg = f"--arg {parameter.name}=none: the argument is a {inner.scalar or inner.kind}, not optional"
        raise UsageError(msg, hint="give a value")
    if inner.kind == "scalar":
        if inner.scalar == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if inner.scalar == "str" and not isinstance(value, str):
            return str(value)
        if type(value).__name__ == inner.scalar:
            return value
        msg = f"--arg {parameter.name}={value}: expected {inner.scalar}, got {type(value).__name__}"
        raise UsageError(msg, hint=f"give a value of type {inner.scalar}")
    if inner.kind == "unknown" or (inner.kind == "tensor" and not optional):
        return value  # without annotations only the model knows; a Python scalar where a tensor is usual is fine
    msg = f"--arg {parameter.name}={value}: the argument is a {inner.kind}, not a scalar"
    raise UsageError(msg, hint=f"give it as a tensor: --input '{parameter.name}:dtype[dims]'")
