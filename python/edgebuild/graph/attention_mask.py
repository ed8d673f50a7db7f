"""The mask of attention, as MultiHeadAttention wants it: added to the scores, ``(1|B, 1|H, S, T)``."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebuild.graph.arrange import Writer
from edgebuild.graph.match import is_scaled_product
from edgebuild.graph.softmax import FINITE_MIN
from edgebuild.graph.symbolic import ONE, Size, sizes_of
from edgebuild.graph.values import constant_array, input_at, is_op

_MAX_CONSTANT_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Mask:
    """``value`` is added; or, if ``replaced`` is given, it is a condition under which that stands in place of the score.

    ``replaced_if``: for which truth of the condition.
    """

    value: ir.Value
    replaced: float | None = None
    replaced_if: bool = True

    def plan(self, batch: Size, heads: Size, queries: Size, keys: Size) -> "MaskPlan | None":
        """How to write it; None if its shape does not fit."""
        sizes = sizes_of(self.value)
        if sizes is None or len(sizes) > 4:
            return None
        full = [ONE] * (4 - len(sizes)) + sizes
        for size, allowed in zip(full, (batch, heads, queries, keys), strict=True):
            if size not in (ONE, allowed):
                return None
        if full[3] != keys and keys.number is None:
            return None
        return MaskPlan(self, tuple(full), len(sizes), queries, keys)


@dataclass(frozen=True)
class MaskPlan:
    """A mask that fits: its four sizes, how many of them it has itself, and the sizes of the last two that it needs."""

    mask: Mask
    sizes: tuple[Size, ...]
    rank: int
    queries: Size
    keys: Size

    def write(self, writer: Writer, query: ir.Value | None) -> ir.Value:
        """The nodes; ``query (B, S, H*D)`` tells S where nothing else does."""
        value, sizes = self.mask.value, list(self.sizes)
        name = value.name or "mask"
        float_type = ir.DataType.FLOAT
        wanted = [*sizes[:2], self.queries, self.keys]
        array = constant_array(value, max_elements=_MAX_CONSTANT_ELEMENTS)
        numbers = [size.number for size in wanted if size.number is not None]
        if array is not None and self.mask.replaced is None and len(numbers) == len(wanted):
            whole = np.broadcast_to(array.reshape([1] * (4 - array.ndim) + list(array.shape)), numbers)
            return writer.constant(f"{name}.bias", np.ascontiguousarray(whole), float_type)
        if self.mask.replaced is not None:
            low = writer.constant("mask.low", np.array(self.mask.replaced, np.float32), float_type)
            zero = writer.constant("mask.zero", np.zeros((), np.float32), float_type)
            choice = [low, zero] if self.mask.replaced_if else [zero, low]
            value = writer.node("Where", [value, *choice], sizes=sizes[4 - self.rank :], dtype=float_type)
        if self.rank < 4:
            axes = writer.integers("mask.axes", list(range(4 - self.rank)))
            value = writer.node("Unsqueeze", [value, axes], like=value, sizes=sizes)
        if sizes == wanted:
            return value
        target = self._target(writer, value, query, sizes)
        return writer.node("Expand", [value, target], like=value, sizes=wanted)

    def _target(self, writer: Writer, value: ir.Value, query: ir.Value | None, sizes: list[Size]) -> ir.Value:
        """``[1, 1, S, 1]``, with T for the last one if the mask lacks it."""
        numbers = [self.queries.number, ONE.number if sizes[3] == self.keys else self.keys.number]
        if None not in numbers:
            return writer.integers("mask.target", [1, 1, *(n for n in numbers if n is not None)])
        # Self-attention: the mask's own last axis is S, and every layer then shares one expanded mask.
        if sizes[3] == self.queries:
            length = writer.node("Shape", [value], {"start": 3, "end": 4}, sizes=[Size(1)], dtype=ir.DataType.INT64)
        else:
            length = writer.node("Shape", [query], {"start": 1, "end": 2}, sizes=[Size(1)], dtype=ir.DataType.INT64)
        one = writer.integers("mask.one", [1])
        parts = [one, one, length, one]
        return writer.node("Concat", parts, {"axis": 0}, sizes=[Size(4)], dtype=ir.DataType.INT64)


def mask_of(scores: ir.Value) -> tuple[Mask, ir.Value] | None:
    """The mask on the scores, and the scores without it; None if there is none that is understood."""
    node = scores.producer()
    if node is None:
        return None
    if is_op(node, "Add"):
        sides = [(node.inputs[index], node.inputs[1 - index]) for index in (0, 1)]
        for mask, rest in sides:
            if mask is not None and rest is not None and is_scaled_product(rest) and mask.dtype == ir.DataType.FLOAT:
                return Mask(mask), rest
        return None
    if is_op(node, "Where") and node.inputs[0] is not None:
        for index in (1, 2):
            constant, rest = constant_array(input_at(node, index), max_elements=1), node.inputs[3 - index]
            if constant is None or constant.size != 1 or rest is None or not is_scaled_product(rest):
                continue
            low = float(constant.item())
            if low == -np.inf or low == FINITE_MIN:
                return Mask(node.inputs[0], low, index == 1), rest
    return None
