"""Sizes of axes as products of a number and symbols, and the integer vectors that graphs compute from them.

Symbols are the names that the model gives to its axes: within one model equal names mean equal sizes. An axis without a
name gets a symbol of its own, so that it equals itself and nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op

_NO_NAMES = frozenset(
    {"?", "-1", "*", "none", "null", "nan", "unk", "unknown", "dynamic", "dyn", "any", "dim", "variable"}
)
"""What tools write for "not known", in lower case: such axes are not of one size."""

_PRODUCT = re.compile(r"\s*[\w.]+(\s*\*\s*[\w.]+)*\s*")
_MAX_ELEMENTS = 64
_MAX_DEPTH = 24


@dataclass(frozen=True)
class Size:
    """``factor * symbols[0] * symbols[1] * …``; symbols are sorted."""

    factor: int
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: "Size") -> "Size":
        return Size(self.factor * other.factor, tuple(sorted(self.symbols + other.symbols)))

    def divided_by(self, other: "Size") -> "Size | None":
        """The exact quotient; None if there is none, or if it could divide by zero."""
        if other.factor == 0 or self.factor % other.factor:
            return None
        left = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in left:
                return None
            left.remove(symbol)
        return Size(self.factor // other.factor, tuple(left))

    @property
    def number(self) -> int | None:
        """The size if it is the same in every run."""
        return self.factor if not self.symbols or self.factor == 0 else None

    @property
    def name(self) -> str | None:
        """The name of an axis of this size, None if it is a number, a product, or has none."""
        plain = self.factor == 1 and len(self.symbols) == 1 and not self.symbols[0].startswith("?")
        return self.symbols[0] if plain else None


ONE = Size(1)


def product(sizes: Sequence[Size]) -> Size:
    """The product of all, 1 of none."""
    result = ONE
    for size in sizes:
        result = result * size
    return result


def sizes_of(value: ir.Value | None) -> list[Size] | None:
    """The sizes of a value's axes, None if not even their number is known."""
    if value is None or value.shape is None:
        return None
    return [_size(dim, f"?{value.name}#{axis}") for axis, dim in enumerate(value.shape)]


def _size(dim: int | ir.SymbolicDim, fallback: str) -> Size:
    if isinstance(dim, int):
        return Size(dim)
    text = dim.value
    if not text or text.lower() in _NO_NAMES:
        return Size(1, (fallback,))
    if not _PRODUCT.fullmatch(text):
        return Size(1, (text,))
    parts = [part.strip() for part in text.split("*")]
    return product([Size(int(part)) if part.isdigit() else Size(1, (part,)) for part in parts])


def integers(value: ir.Value | None, depth: int = 0) -> list[Size] | None:
    """What an integer scalar or vector holds, element by element; None if that is not known.

    Follows constants, Shape, Size, Concat, Gather, Slice, Squeeze, Unsqueeze, Identity, Cast between integers, Mul and exact Div.
    """
    if value is None or depth > _MAX_DEPTH:
        return None
    array = constant_array(value, max_elements=_MAX_ELEMENTS)
    if array is not None:
        return [Size(int(item)) for item in array.ravel()] if array.dtype.kind in "iu" and array.ndim <= 1 else None
    node = value.producer()
    if node is None or not is_op(node, *_RULES):
        return None
    return _RULES[node.op_type](node, depth + 1)


def _shape(node: ir.Node, depth: int) -> list[Size] | None:
    sizes = sizes_of(node.inputs[0])
    start, end = int_attribute(node, "start", 0), int_attribute(node, "end", 1 << 31)
    if sizes is None or start is None or end is None:
        return None
    rank = len(sizes)
    return sizes[max(start + rank if start < 0 else start, 0) : max(end + rank if end < 0 else end, 0)]


def _size_of(node: ir.Node, depth: int) -> list[Size] | None:
    sizes = sizes_of(node.inputs[0])
    return None if sizes is None else [product(sizes)]


def _concat(node: ir.Node, depth: int) -> list[Size] | None:
    parts: list[Size] = []
    for value in node.inputs:
        part = integers(value, depth)
        if part is None:
            return None
        parts.extend(part)
    return parts


def _same(node: ir.Node, depth: int) -> list[Size] | None:
    return integers(node.inputs[0], depth)


def _cast(node: ir.Node, depth: int) -> list[Size] | None:
    to = node.outputs[0].dtype
    return integers(node.inputs[0], depth) if to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _gather(node: ir.Node, depth: int) -> list[Size] | None:
    source, indices = integers(node.inputs[0], depth), constant_array(input_at(node, 1), max_elements=_MAX_ELEMENTS)
    if source is None or indices is None or indices.ndim > 1 or int_attribute(node, "axis", 0) not in (0, -1):
        return None
    picked = [int(index) for index in indices.ravel()]
    return [source[i] for i in picked] if all(-len(source) <= i < len(source) for i in picked) else None


def _slice(node: ir.Node, depth: int) -> list[Size] | None:
    source = integers(node.inputs[0], depth)
    if source is None or len(node.inputs) < 3:
        return None
    bounds = []
    for index, default in ((1, None), (2, None), (3, 0), (4, 1)):
        if input_at(node, index) is None:
            if default is None:
                return None
            bounds.append(default)
            continue
        array = constant_array(input_at(node, index), max_elements=1)
        if array is None or array.size != 1:
            return None
        bounds.append(int(array.item()))
    start, end, axis, step = bounds
    return source[start:end] if axis in (0, -1) and step == 1 else None


def _mul(node: ir.Node, depth: int) -> list[Size] | None:
    one, other = integers(node.inputs[0], depth), integers(node.inputs[1], depth)
    if one is None or other is None or len(one) != 1 or len(other) != 1:
        return None
    return [one[0] * other[0]]


def _div(node: ir.Node, depth: int) -> list[Size] | None:
    one, other = integers(node.inputs[0], depth), integers(node.inputs[1], depth)
    if one is None or other is None or len(one) != 1 or len(other) != 1 or other[0].number is None:
        return None
    quotient = one[0].divided_by(other[0])
    return None if quotient is None or other[0].factor < 0 else [quotient]


_RULES = {
    "Shape": _shape,
    "Size": _size_of,
    "Concat": _concat,
    "Identity": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Mul": _mul,
    "Div": _div,
}


def reshaped_sizes(node: ir.Node) -> list[Size] | None:
    """The sizes of a Reshape's output, as far as its input's axes and its target tell."""
    before, target = sizes_of(input_at(node, 0)), integers(input_at(node, 1))
    literal_zero = int_attribute(node, "allowzero", 0)
    if before is None or target is None or literal_zero is None:
        return None
    result: list[Size | None] = []
    for axis, size in enumerate(target):
        if size.factor == 0 and not literal_zero:
            if axis >= len(before):
                return None
            result.append(before[axis])
        elif size.factor == -1 and not size.symbols:
            result.append(None)
        else:
            result.append(size)
    known = [size for size in result if size is not None]
    if len(known) == len(result):
        return known
    rest = product(before).divided_by(product(known)) if len(known) == len(result) - 1 else None
    return None if rest is None else [rest if size is None else size for size in result]


def constant_target(before: Sequence[Size], after: Sequence[Size]) -> list[int] | None:
    """A Reshape target of numbers that makes ``after`` of ``before`` in every run; None if there is none.

    An axis is a number, or 0 where it is the input's axis at the same place. One left over is -1, and only beside numbers: ONNX
    Runtime can't tell it when one of the others is 0.
    """
    target: list[int] = []
    for axis, size in enumerate(after):
        number = size.number
        if number is not None:
            if number <= 0:
                return None
            target.append(number)
        else:
            target.append(0 if axis < len(before) and before[axis] == size else -1)
    return target if -1 not in target or (target.count(-1) == 1 and 0 not in target) else None
