"""TorchScript's operators on lists, dicts and strings."""

from typing import Any

import torch

from edgebuild.export.rewrites.script_ops import handles


@handles("aten::__contains__")
def _contains(node: Any, inputs: list[Any]) -> Any:
    return inputs[1] in inputs[0]


@handles("aten::__getitem__")
def _getitem(node: Any, inputs: list[Any]) -> Any:
    key = inputs[1]
    return inputs[0][key]


@handles("aten::_set_item")
def _set_item(node: Any, inputs: list[Any]) -> Any:
    inputs[0][inputs[1]] = inputs[2]
    return inputs[0]


@handles("aten::append")
def _append(node: Any, inputs: list[Any]) -> Any:
    inputs[0].append(inputs[1])
    return inputs[0]


@handles("aten::extend")
def _extend(node: Any, inputs: list[Any]) -> Any:
    inputs[0].extend(inputs[1])


@handles("aten::insert")
def _insert(node: Any, inputs: list[Any]) -> Any:
    inputs[0].insert(inputs[1], inputs[2])


@handles("aten::pop")
def _pop(node: Any, inputs: list[Any]) -> Any:
    return inputs[0].pop(*inputs[1:])


@handles("aten::keys", "aten::values", "aten::items")
def _views(node: Any, inputs: list[Any]) -> Any:
    return list(getattr(inputs[0], node.kind().removeprefix("aten::"))())


@handles("aten::get")
def _get(node: Any, inputs: list[Any]) -> Any:
    return inputs[0].get(*inputs[1:])


@handles("aten::dict")
def _make_dict(node: Any, inputs: list[Any]) -> Any:
    return dict(*inputs)


@handles("aten::list", "aten::copy")
def _copy(node: Any, inputs: list[Any]) -> Any:
    return NotImplemented if isinstance(inputs[0], torch.Tensor) else type(inputs[0])(inputs[0])


@handles("aten::reverse")
def _reverse(node: Any, inputs: list[Any]) -> Any:
    inputs[0].reverse()


@handles("aten::format", "aten::str", "aten::percentFormat")
def _format(node: Any, inputs: list[Any]) -> Any:
    return str(inputs[0]).format(*inputs[1:]) if node.kind() == "aten::format" else str(inputs[0])


@handles("aten::add", "aten::add_")
def _add_lists(node: Any, inputs: list[Any]) -> Any:
    if isinstance(inputs[0], list) and node.kind() == "aten::add_":
        inputs[0].extend(inputs[1])
        return inputs[0]
    if isinstance(inputs[0], (list, str)):
        return inputs[0] + inputs[1]
    return NotImplemented


@handles("aten::mul")
def _repeat_list(node: Any, inputs: list[Any]) -> Any:
    return inputs[0] * inputs[1] if isinstance(inputs[0], list) else NotImplemented


@handles("aten::slice")
def _slice_list(node: Any, inputs: list[Any]) -> Any:
    return inputs[0][inputs[1] : inputs[2] : inputs[3]] if isinstance(inputs[0], (list, str)) else NotImplemented
