"""Activations made ready for integer products by edgebuild's own operators, which its runner brings (cpp/backends/onnxruntime/operators).

QuantizeRows does in one pass what smoothing, splitting and scaling rows write as Gather, Concat, Mul, Abs, ReduceMax and Div, and
quantises too, and gives each row a range of its own; RescaleRows brings such rows back and adds the bias.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.values import constant_array, int_attribute, is_op
from edgebuild.quantize.editor import GraphEditor

DOMAIN = "edgebuild"
OPERATORS = (f"{DOMAIN}.QuantizeRows", f"{DOMAIN}.RescaleRows")


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedRows:
    """Rows as integers.

    Args:
        integers: uint8, ``(…, K)``.
        scale: Of all of them.
        zero_point: Of all of them.
        sizes: The scale of each row, ``(…, 1)``; None: they have the same.
        offsets: Of each row, what its zero point is less than the one of all, ``(…, 1)``; None: nothing.
        terms: Whose sum a row is; of two, integers and sizes have an axis more in front.
    """

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    sizes: ir.Value | None = None
    offsets: ir.Value | None = None
    terms: int = 1


class RowQuantizer:
    """Writes QuantizeRows, once for all products that read an activation in the same way."""

    def __init__(self, editor: GraphEditor) -> None:
        self._editor = editor
        self._done: dict[tuple[ir.Value, bool, int], QuantizedRows] = {}

    def rows(self, data: ir.Value, *, scaled: bool, terms: int = 1) -> QuantizedRows:
        """The rows of an activation, with what prepares them taken in.

        Args:
            data: float32, one axis at least.
            scaled: Whether each row has a range of its own.
            terms: 2: of scaled rows, what rounding leaves is rounded to 8 bits again.
        """
        if (data, scaled, terms) not in self._done:
            self._done[data, scaled, terms] = self._write(data, scaled=scaled, terms=terms)
        return self._done[data, scaled, terms]

    def _write(self, data: ir.Value, *, scaled: bool, terms: int) -> QuantizedRows:
        found = preparation_of(data)
        name, shape = data.name or "rows", data.shape
        node = ir.node(
            "QuantizeRows",
            [found.source, found.factors, found.columns, found.shifts],
            {"scale_rows": int(scaled), "terms": terms},
            domain=DOMAIN,
            num_outputs=3 if not scaled else 4 if terms > 1 else 5,
            name=self._editor.fresh_node(f"{name}_QuantizeRows"),
        )
        kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.FLOAT)
        words = ("quantized", "scale", "zero_point", "sizes", "offsets")
        for value, word, kind in zip(node.outputs, words, kinds, strict=False):
            value.name, value.type = self._editor.fresh(f"{name}_{word}"), ir.TensorType(kind)
        node.outputs[0].shape = shape if shape is None or terms == 1 else ir.Shape([terms, *shape])
        node.outputs[1].shape = node.outputs[2].shape = ir.Shape(())
        self._editor.insert_behind(found.source, [node])
        return QuantizedRows(
            integers=node.outputs[0],
            scale=node.outputs[1],
            zero_point=node.outputs[2],
            sizes=node.outputs[3] if scaled else None,
            offsets=node.outputs[4] if scaled and terms == 1 else None,
            terms=terms,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Preparation:
    """What is done to an activation before it is quantised, see ``cpp/backends/onnxruntime/operators/rows.hpp``.

    Args:
        source: The activation, ``(…, K)``.
        factors: A constant, ``(K + E,)``; None: nothing is multiplied.
        columns: Copies of these are put behind, a constant, ``(E,)``; None: none.
        shifts: Added to them, a constant, ``(E,)``; None: nothing.
    """

    source: ir.Value
    factors: ir.Value | None = None
    columns: ir.Value | None = None
    shifts: ir.Value | None = None

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return self.factors is not None


def preparation_of(data: ir.Value) -> Preparation:
    """What makes an activation, if it is a multiplication by a constant for each channel, with copies of channels behind or not."""
    node = data.producer()
    if node is None or not is_op(node, "Mul"):
        return Preparation(source=data)
    source, factors = node.inputs
    array = _vector(factors, np.float32)
    if source is None or array is None:
        return Preparation(source=data)
    if (split := _split(source, factors, array)) is not None:
        return split
    # A product may also be broadcast, rows of one value widened: that is no factor for each channel.
    return Preparation(source=source, factors=factors) if _depth(source) == len(array) else Preparation(source=data)


def _split(source: ir.Value, factors: ir.Value | None, array: npt.NDArray[Any]) -> Preparation | None:
    """The same where copies of channels were put behind first."""
    concat = source.producer()
    if concat is None or not is_op(concat, "Concat") or len(concat.inputs) != 2:
        return None
    first, behind = concat.inputs
    gather, shifts = _shifted(behind)
    if first is None or gather is None or not is_op(gather, "Gather") or gather.inputs[0] is not first:
        return None
    columns = gather.inputs[1]
    indices = _vector(columns, np.int64)
    if indices is None:
        return None
    depth = len(array) - len(indices)
    added = None if shifts is None else _vector(shifts, np.float32)
    # There is one factor for each column and copy: nothing else fits together but rows of one value.
    fits = depth > 0 and len(indices) > 0 and bool(((indices >= 0) & (indices < depth)).all())
    if (
        not fits
        or not _last(concat, first)
        or not _last(gather, first)
        or (added is not None and len(added) != len(indices))
    ):
        return None
    return Preparation(source=first, factors=factors, columns=columns, shifts=shifts)


def _vector(value: ir.Value | None, dtype: npt.DTypeLike) -> npt.NDArray[Any] | None:
    """An initialiser with one axis. What a Constant node gives may be made behind the activation, where QuantizeRows is put."""
    array = constant_array(value) if value is not None and value.producer() is None else None
    return array if array is not None and array.ndim == 1 and array.dtype == dtype else None


def _depth(rows: ir.Value) -> object:
    """Values of a row; None: not known."""
    return rows.shape[-1] if rows.shape is not None and len(rows.shape) > 0 else None


def _shifted(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """The node in front of an addition of a constant for each channel, and the constant; or the node and None."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Add"):
        return node, None
    first, shifts = node.inputs
    if first is None or _vector(shifts, np.float32) is None:
        return None, None
    return first.producer(), shifts


def _last(node: ir.Node, rows: ir.Value) -> bool:
    """Whether a node works along the last axis."""
    axis = int_attribute(node, "axis", 0)
    return axis == -1 or (rows.shape is not None and axis == len(rows.shape) - 1)
