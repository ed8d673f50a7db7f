"""A scripted loop over a dynamic axis as one scan, which becomes ONNX's Scan.

``for t in range(x.size(1))`` can't be unrolled if the size is only known at run time. If the loop runs to its end (its condition is
always true), carries tensors whose shapes stay, and appends a fixed number of tensors to lists in each step, then it is a scan
over ``arange(n)``: what is carried is the state, what is appended the outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from edgebuild.export.rewrites.script_ops import handles


class ScanError(Exception):
    """The loop is no scan; says why."""


class GrownList:
    """A list with one entry a step of a dynamic axis: ``items`` holds them stacked on axis 0.

    It has no length that Python could know, so only what works on the stacked tensor is offered.
    """

    def __init__(self, items: torch.Tensor) -> None:
        self.items = items


@handles("aten::unbind", "aten::unsafe_chunk")
def _unbind(node: Any, inputs: list[Any]) -> Any:
    tensor, axis = inputs[0], inputs[1]
    if node.kind() != "aten::unbind" or isinstance(tensor.shape[axis], int):
        return NotImplemented
    return GrownList(tensor.movedim(axis, 0))


def grown_list_result(kind: str, inputs: Sequence[Any]) -> Any:
    """The result of an operator on a GrownList; NotImplemented if no operand is one.

    Raises:
        ScanError: The operator needs the entries one by one.
    """
    if not any(isinstance(value, GrownList) for value in inputs):
        return NotImplemented
    grown, rest = inputs[0], inputs[1:]
    if isinstance(grown, GrownList):
        if kind == "aten::stack":
            axis = rest[0] if rest[0] >= 0 else rest[0] + grown.items.dim()
            return grown.items.movedim(0, axis)
        if kind == "aten::cat":
            axis = rest[0] if rest[0] >= 0 else rest[0] + grown.items.dim() - 1
            return grown.items.movedim(0, axis).flatten(axis, axis + 1)
        if kind == "aten::len":
            return grown.items.shape[0]
        if kind == "aten::__getitem__":
            return select(grown.items, 0, rest[0])
    message = f"{kind} on a list that a loop over a dynamic axis fills; only stack, cat, len and indexing are possible"
    raise ScanError(message)


def select(tensor: torch.Tensor, axis: int, index: Any) -> torch.Tensor:
    """``tensor.select(axis, index)``; ``index`` may be a traced 0-d tensor."""
    if isinstance(index, torch.Tensor):
        return tensor.index_select(axis, index.reshape(1)).squeeze(axis)
    return tensor.select(axis, index)


@handles("aten::select")
def _select(node: Any, inputs: list[Any]) -> Any:
    if not isinstance(inputs[2], torch.Tensor):
        return NotImplemented
    return select(inputs[0], inputs[1], inputs[2])


Body = Callable[[Any, dict[str, Any]], list[Any]]
"""(step, free values and carried values by name) -> [condition, *carried] after one run of the loop's body."""


def scan(trips: Any, names: Sequence[str], carried: Sequence[Any], free: dict[str, Any], body: Body) -> list[Any]:
    """Runs a loop as a scan.

    Args:
        trips: Number of steps, a SymInt.
        names: Names of the carried values in the body.
        carried: Their values before the loop: tensors, lists that the body appends to, anything else if it never changes.
        free: Values by name that the body reads; lists in it that the body appends to are changed in place, in the caller's
            terms: they are replaced in ``free`` by a GrownList.
        body: One step.

    Returns:
        The carried values after the loop.

    Raises:
        ScanError: The loop is no scan.
    """
    lists = _Lists([*carried, *free.values()])
    states = [index for index, value in enumerate(carried) if isinstance(value, torch.Tensor)]
    tensors, rebuild = _flatten_free(free)
    grown: list[Any] = []

    def combine(*flat: Any) -> list[Any]:
        state, step, outer = flat[: len(states)], flat[len(states)], flat[len(states) + 1 :]
        fresh, watched = lists.copies()
        environment = {name: fresh.get(id(value), value) for name, value in rebuild(outer).items()}
        for index, name in enumerate(names):
            environment[name] = fresh.get(id(carried[index]), carried[index])
        environment.update({names[index]: value for index, value in zip(states, state, strict=True)})
        condition, *after = body(step, environment)
        if condition is not True:
            message = "the loop may end before its last step"
            raise ScanError(message)
        for index, value in enumerate(after):
            if index not in states and value is not environment[names[index]] and value != carried[index]:
                message = f"the loop carries {names[index]}, which is no tensor and changes"
                raise ScanError(message)
        new = [_like(after[index], value, names[index]) for index, value in zip(states, state, strict=True)]
        grown[:] = [list(items) for items in lists.appended(watched)]
        outputs = [item.clone() for items in grown for item in items]
        return [value.clone() for value in new] + outputs

    initial = [carried[index].clone() for index in states]
    with torch.no_grad():
        results = list(
            torch.ops.higher_order.scan(combine, initial, [torch.arange(trips, dtype=torch.int64)], tuple(tensors))
        )
    final = list(carried)
    for index, value in zip(states, results, strict=False):
        final[index] = value
    replaced = lists.replace(grown, results[len(states) :])
    for name, value in free.items():
        free[name] = replaced.get(id(value), value)
    return [replaced.get(id(value), value) for value in final]


def _like(value: Any, before: torch.Tensor, name: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.dtype != before.dtype or value.dim() != before.dim():
        message = f"the loop changes the dtype or rank of {name}"
        raise ScanError(message)
    return value.expand(before.shape) if value.shape != before.shape else value


def _flatten_free(free: dict[str, Any]) -> tuple[list[Any], Callable[[Sequence[Any]], dict[str, Any]]]:
    """The tensors among ``free``, which a scan takes as operands, and how to put others in their place."""
    leaves, spec = torch.utils._pytree.tree_flatten(free)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (torch.Tensor, torch.SymInt, GrownList))]
    tensors = [leaves[i].items if isinstance(leaves[i], GrownList) else leaves[i] for i in places]

    def rebuild(values: Sequence[Any]) -> dict[str, Any]:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = GrownList(value) if isinstance(leaves[place], GrownList) else value
        built: dict[str, Any] = torch.utils._pytree.tree_unflatten(filled, spec)
        for name, value in free.items():  # a list keeps its identity, by which it is known
            if isinstance(value, list) and not any(isinstance(item, torch.Tensor) for item in value):
                built[name] = value
        return built

    return tensors, rebuild


class _Lists:
    """The lists that a loop's body may append to, each once."""

    def __init__(self, values: Sequence[Any]) -> None:
        found = {id(value): value for value in values if isinstance(value, list)}
        self._lists = list(found.values())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._lists)

    def copies(self) -> tuple[dict[int, Any], list[Any]]:
        """A copy of each list, by the original's identity, and in order."""
        watched = [list(value) for value in self._lists]
        return {id(value): copy for value, copy in zip(self._lists, watched, strict=True)}, watched

    def appended(self, watched: Sequence[Any]) -> Iterator[list[torch.Tensor]]:
        """What one step added to each list."""
        for before, after in zip(self._lists, watched, strict=True):
            new = after[len(before) :]
            if len(after) < len(before) or any(x is not y for x, y in zip(before, after, strict=False)):
                message = "the loop changes entries of a list"
                raise ScanError(message)
            if new and (before or len(new) > 1 or not isinstance(new[0], torch.Tensor)):
                message = "the loop appends more than one tensor a step to a list, or to one that is not empty"
                raise ScanError(message)
            yield new

    def replace(self, grown: Sequence[list[Any]], outputs: Sequence[Any]) -> dict[int, Any]:
        """A GrownList for each list that grows, by the original's identity."""
        remaining = iter(outputs)
        return {id(before): GrownList(next(remaining)) for before, new in zip(self._lists, grown, strict=True) if new}
