"""A TorchScript graph run operator by operator in Python, so that torch.export can trace it.

torch.export does not look into a ScriptModule. This module gives it one that it can: an ``nn.Module`` with the same parameters
whose ``forward`` walks the inlined graph, calls every ATen operator through ``torch.ops``, and does what the script does in between
(lists, tuples, sizes, branches, loops) with Python values. So loops over a known number of steps are unrolled, branches on
shapes are taken, and operators that no exporter knows are replaced on the way (``lowered``).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from edgebuild.export.failure import source_location
from edgebuild.export.rewrites import nested
from edgebuild.export.rewrites import script_containers as _containers  # noqa: F401  # registers its operators
from edgebuild.export.rewrites import script_values as values
from edgebuild.export.rewrites.lowered import LOWERED
from edgebuild.export.rewrites.scan_loop import grown_list_result, scan
from edgebuild.export.rewrites.script_ops import PYTHON_OPS, scalar_result, traced_scalar_result

MAX_STEPS = 50_000
"""Operators that one run may execute: above it an unrolled graph is of no use."""


_ALIGNMENT = "aten::_nested_tensor_from_mask_left_aligned"
_NESTED = (
    _ALIGNMENT,
    "aten::_nested_tensor_from_mask",
    "aten::_transformer_encoder_layer_fwd",
    "aten::to_padded_tensor",
    "aten::nested_to_padded_tensor",
)


class InterpreterError(Exception):
    """The graph can't be run this way; names the operator and, if the file holds it, the line of the model's code."""

    def __init__(self, message: str, operator: str | None = None, location: str | None = None) -> None:
        super().__init__(message)
        self.operator = operator
        self.location = location


class _ModuleReference:
    """A submodule in the graph: its path and the script object."""

    def __init__(self, path: str, script: Any) -> None:
        self.path = path
        self.script = script


class _Unshared:
    """Holds what must not be copied with the module: graphs and script objects belong to C++."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.graph = script.inlined_graph

    def __deepcopy__(self, memo: Any) -> "_Unshared":
        return self


class ScriptInterpreter(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """``script`` as a module that torch.export can trace; parameters and buffers are the script's own, not copies."""

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._held = _Unshared(script)
        self.training = False
        for name, parameter in script.named_parameters(remove_duplicate=False):
            holder, leaf = self._holder(name)
            holder.register_parameter(leaf, torch.nn.Parameter(parameter.detach(), requires_grad=False))
        for name, buffer in script.named_buffers(remove_duplicate=False):
            holder, leaf = self._holder(name)
            holder.register_buffer(leaf, buffer.detach())
        self._constants: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        for node in _all_nodes(self._held.graph):
            if node.kind() == "prim::Constant" and node.output().type().kind() == "TensorType":
                value = node.output().toIValue()
                if _is_integer(value):
                    # A traced size or index: as a Python number it keeps its value under torch.export.
                    self._numbers[node.output().debugName()] = int(value)
                elif isinstance(value, torch.Tensor):
                    name = f"constant_{len(self._constants)}"
                    self.register_buffer(name, value.detach().cpu())
                    self._constants[node.output().debugName()] = name

    def _holder(self, path: str) -> tuple[torch.nn.Module, str]:
        module: torch.nn.Module = self
        *folders, leaf = path.split(".")
        for folder in folders:
            if folder not in module._modules:
                module.add_module(folder, torch.nn.Module())
            child = module._modules[folder]
            assert child is not None
            module = child
        return module, leaf

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        graph = self._held.graph
        names = [value.debugName() for value in graph.inputs()]
        bound = _bind(self._held.script, args, kwargs, len(names) - 1)
        environment: dict[str, Any] = {names[0]: _ModuleReference("", self._held.script)}
        environment.update(zip(names[1:], bound, strict=True))
        run = _Run(self)
        run.block(graph, environment)
        outputs = [environment[value.debugName()] for value in graph.outputs()]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _bind(script: Any, args: Sequence[Any], kwargs: Mapping[str, Any], count: int) -> list[Any]:
    """Arguments in the order of the graph's inputs, with the schema's defaults."""
    schema = script._c._get_method("forward").schema.arguments[1:]
    bound = list(args)
    for argument in schema[len(args) :]:
        if argument.name in kwargs:
            bound.append(kwargs[argument.name])
        elif argument.has_default_value():
            bound.append(argument.default_value)
        else:
            message = f"argument {argument.name} of forward has no value"
            raise InterpreterError(message)
    if len(bound) != count:
        message = f"forward takes {count} arguments, {len(bound)} were given"
        raise InterpreterError(message)
    return bound


def _all_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


class _Run:
    """One run of the graph: what was assigned to attributes, and how many operators were executed."""

    def __init__(self, module: ScriptInterpreter) -> None:
        self._module = module
        self._assigned: dict[str, Any] = {}
        self._bound: dict[str, Any] = {}
        self._alignment_checked = False
        self._steps = itertools.count(1)

    def block(self, block: Any, environment: dict[str, Any]) -> None:
        for node in block.nodes():
            try:
                results = self._node(node, environment)
            except InterpreterError as error:
                error.operator = error.operator or node.kind()
                error.location = error.location or source_location(node.sourceRange())
                raise
            except Exception as error:
                location = source_location(node.sourceRange())
                message = f"{node.kind()}: {type(error).__name__}: {_first_line(error)}"
                raise InterpreterError(message, node.kind(), location) from error
            for value, result in zip(node.outputs(), results, strict=True):
                environment[value.debugName()] = result

    def _node(self, node: Any, environment: dict[str, Any]) -> Sequence[Any]:
        if next(self._steps) > MAX_STEPS:
            message = f"more than {MAX_STEPS} operators after loops were unrolled"
            raise InterpreterError(message)
        kind = node.kind()
        if self._bound and node.outputsSize() == 1 and node.output().debugName() in self._bound:
            return (self._bound[node.output().debugName()],)
        if kind == "prim::Constant":
            return (self._constant(node),)
        inputs = [environment[value.debugName()] for value in node.inputs()]
        if kind == "prim::GetAttr":
            return (self._attribute(inputs[0], node.s("name")),)
        if kind == "prim::SetAttr":
            self._assigned[f"{inputs[0].path}.{node.s('name')}"] = inputs[1]
            return ()
        if kind == "prim::If":
            return self._branch(node, inputs[0], environment)
        if kind == "prim::Loop":
            return self._loop(node, inputs, environment)
        if kind in _NESTED:
            return _as_results(node, self._nested(kind, inputs))
        grown = grown_list_result(kind, inputs)
        if grown is not NotImplemented:
            return _as_results(node, grown)
        if kind in LOWERED:
            return _as_results(node, LOWERED[kind](*inputs))
        if kind in PYTHON_OPS:
            handled = PYTHON_OPS[kind](node, inputs)
            if handled is not NotImplemented:
                return _as_results(node, handled)
        if kind.startswith("prim::"):
            message = f"{kind} has no counterpart in an exported program"
            raise InterpreterError(message)
        scalar = scalar_result(kind, inputs)
        if scalar is NotImplemented:
            scalar = traced_scalar_result(node, inputs)
        if scalar is not NotImplemented:
            return (scalar,)
        return _as_results(node, values.call_operator(node, inputs))

    def _nested(self, kind: str, inputs: list[Any]) -> Any:
        if kind == _ALIGNMENT:
            # Both sides of this decision are in what from_mask makes of it.
            self._alignment_checked = True
            return True
        if kind == "aten::_nested_tensor_from_mask":
            return nested.from_mask(inputs[0], inputs[1], checked=self._alignment_checked)
        if kind == "aten::_transformer_encoder_layer_fwd":
            return nested.encoder_layer(*inputs)
        return nested.to_padded(*inputs)

    def _constant(self, node: Any) -> Any:
        key = node.output().debugName()
        if key in self._module._numbers:
            return self._module._numbers[key]
        if key in self._module._constants:
            return getattr(self._module, self._module._constants[key])
        return values.to_cpu_device(node.output().toIValue())

    def _attribute(self, owner: Any, name: str) -> Any:
        if not isinstance(owner, _ModuleReference):
            return getattr(owner, name)
        path = f"{owner.path}.{name}".lstrip(".")
        if f"{owner.path}.{name}" in self._assigned:
            return self._assigned[f"{owner.path}.{name}"]
        holder: Any = self._module
        for part in path.split(".")[:-1]:
            holder = holder._modules.get(part) if holder is not None else None
        if holder is not None and (name in holder._parameters or name in holder._buffers):
            return getattr(holder, name)
        value = getattr(owner.script, name)
        if isinstance(value, torch.jit.ScriptModule):
            return _ModuleReference(path, value)
        return values.to_cpu_device(value)

    def _branch(self, node: Any, condition: Any, environment: dict[str, Any]) -> list[Any]:
        taken, other = node.blocks()
        chosen = taken if bool(condition) else other
        self.block(chosen, environment)
        return [environment[value.debugName()] for value in chosen.outputs()]

    def _loop(self, node: Any, inputs: list[Any], environment: dict[str, Any]) -> list[Any]:
        trips, condition, *carried = inputs
        (body,) = node.blocks()
        names = [value.debugName() for value in body.inputs()]
        if isinstance(trips, torch.SymInt) and not trips.node.is_constant():
            return self._scan(body, trips, condition, carried, environment)
        for step in range(int(trips)):
            if not bool(condition):
                break
            environment[names[0]] = step
            environment.update(zip(names[1:], carried, strict=True))
            self.block(body, environment)
            condition, *carried = (environment[value.debugName()] for value in body.outputs())
        return carried

    def _scan(
        self, body: Any, trips: Any, condition: Any, carried: list[Any], environment: dict[str, Any]
    ) -> list[Any]:
        if condition is not True:
            message = "a loop over a dynamic axis that may end early can't be unrolled"
            raise InterpreterError(message)
        step_name, *names = (value.debugName() for value in body.inputs())
        fetched = self._fetch_constants(body, dict(environment))
        used = {value.debugName() for node in _all_nodes(body) for value in node.inputs()}
        used |= {value.debugName() for node in _all_nodes(body) for block in node.blocks() for value in block.outputs()}
        used |= {value.debugName() for value in body.outputs()}
        free = {name: value for name, value in environment.items() if name in used}
        outer = {**free, **{f"bound {name}": value for name, value in fetched.items()}}

        def one_step(step: Any, local: dict[str, Any]) -> list[Any]:
            before = self._bound
            self._bound = {name.removeprefix("bound "): v for name, v in local.items() if name.startswith("bound ")}
            try:
                inner = {**local, step_name: step}
                self.block(body, inner)
                return [inner[value.debugName()] for value in body.outputs()]
            finally:
                self._bound = before

        final = scan(trips, names, carried, outer, one_step)
        environment.update({name: outer[name] for name in free})
        return final

    def _fetch_constants(self, body: Any, environment: dict[str, Any]) -> dict[str, Any]:
        """Parameters and tensor constants that nodes of a loop's body read: a scan takes them as operands."""
        fetched: dict[str, Any] = {}
        for node in _all_nodes(body):
            if node.kind() not in ("prim::GetAttr", "prim::Constant"):
                continue
            name = node.output().debugName()
            (environment[name],) = self._node(node, environment)
            if isinstance(environment[name], torch.Tensor):
                fetched[name] = environment[name]
        return fetched


def _is_integer(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.dim() > 0 or value.dtype == torch.bool:
        return False
    return not (value.dtype.is_floating_point or value.dtype.is_complex)


def _as_results(node: Any, value: Any) -> Sequence[Any]:
    count = node.outputsSize()
    if count == 1:
        return (value,)
    return () if count == 0 else tuple(value)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
