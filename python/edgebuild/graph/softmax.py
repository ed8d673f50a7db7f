"""What attention passes ask about a Softmax: the guard around it, and whether its mask can blank out a whole row."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebuild.graph.match import is_scaled_product
from edgebuild.graph.symbolic import sizes_of
from edgebuild.graph.values import constant_array, input_at, int_attribute, is_op

FINITE_MIN = float(np.finfo(np.float32).min)
_MAX_MASK_ELEMENTS = 1 << 26
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Guard:
    """``Where(IsNaN(p), 0, p)``."""

    is_nan: ir.Node
    where: ir.Node


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value once, if nothing else does and it is no output of a graph."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def guard_of(softmax: ir.Node) -> Guard | None:
    """The guard that turns rows of NaN into zeros, if it is all that reads a Softmax."""
    value = softmax.outputs[0]
    uses = value.uses()
    if len(uses) != 2 or value.is_graph_output():
        return None
    readers = [use.node for use in uses]
    is_nan = next((node for node in readers if is_op(node, "IsNaN")), None)
    where = next((node for node in readers if is_op(node, "Where")), None)
    if is_nan is None or where is None or only_reader(is_nan.outputs[0]) is not where:
        return None
    zero = constant_array(input_at(where, 1), max_elements=1)
    if where.inputs[0] is not is_nan.outputs[0] or where.inputs[2] is not value:
        return None
    if zero is None or zero.size != 1 or zero.ndim > 1 or float(zero.item()) != 0:
        return None
    return Guard(is_nan, where)


def along_last_axis(softmax: ir.Node) -> bool:
    """Whether a Softmax of opset 13 or newer sums over the last axis."""
    axis = int_attribute(softmax, "axis", -1)
    sizes = sizes_of(softmax.inputs[0])
    return axis == -1 or (sizes is not None and axis == len(sizes) - 1)


def row_stays_finite(scores: ir.Value | None) -> bool:
    """Whether some score of every row is finite, if all products of queries and keys are finite and below 1e31.

    True for scores without a mask, with a mask of finite values, or with one that leaves an element of every row finite.
    1e31 is half the distance of the largest floats: adding less to the smallest finite number gives that number.
    """
    node = scores.producer() if scores is not None else None
    if scores is None or node is None:
        return False
    if is_op(node, "MatMul"):
        return True
    if is_op(node, "Mul", "Div"):
        for index in (0, 1) if node.op_type == "Mul" else (1,):
            factor = constant_array(input_at(node, index), max_elements=1)
            if factor is not None and factor.size == 1 and np.isfinite(factor).all() and float(factor.item()) != 0:
                return row_stays_finite(node.inputs[1 - index])
        return False
    if is_op(node, "Add"):
        return any(
            is_scaled_product(node.inputs[1 - index]) and leaves_every_row(node.inputs[index], 0) for index in (0, 1)
        )
    return False


def leaves_every_row(mask: ir.Value | None, depth: int) -> bool:
    """Whether an added mask has a finite element in every row and is nowhere NaN or +infinity."""
    array = constant_array(mask, max_elements=_MAX_MASK_ELEMENTS)
    if array is not None:
        if array.dtype.kind != "f" or np.isnan(array).any() or bool((array == np.inf).any()):
            return False
        return bool(np.isfinite(array).any(axis=-1).all()) if array.ndim else bool(np.isfinite(array))
    return is_finite(mask, depth) or _is_causal(mask)


def is_finite(value: ir.Value | None, depth: int) -> bool:
    """Whether a value is finite everywhere by how it is made: choices between finite constants, moved or cast from integers."""
    array = constant_array(value, max_elements=_MAX_MASK_ELEMENTS)
    if array is not None:
        return bool(np.isfinite(array).all()) if array.dtype.kind == "f" else array.dtype.kind in "iub"
    node = value.producer() if value is not None else None
    if node is None or depth > _MAX_DEPTH:
        return False
    if is_op(node, "Where"):
        return is_finite(node.inputs[1], depth + 1) and is_finite(node.inputs[2], depth + 1)
    if is_op(node, "Expand", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Slice", "Gather", "Identity"):
        return is_finite(node.inputs[0], depth + 1)
    if is_op(node, "Cast") and node.outputs[0].dtype == ir.DataType.FLOAT:
        source = node.inputs[0]
        return source is not None and source.dtype in (ir.DataType.BOOL, ir.DataType.INT64, ir.DataType.INT32)
    return False


def _is_causal(mask: ir.Value | None) -> bool:
    """``Where(Trilu(Expand(1), upper=0) == 0, anything, finite)``: the first element of every row stays."""
    node = mask.producer() if mask is not None else None
    if node is None or not is_op(node, "Where") or not is_finite(node.inputs[2], 0):
        return False
    dropped = constant_array(input_at(node, 1), max_elements=1)
    equal = node.inputs[0].producer() if node.inputs[0] is not None else None
    if dropped is None or np.isnan(dropped).any() or bool((dropped == np.inf).any()):
        return False
    if equal is None or not is_op(equal, "Equal"):
        return False
    zero = constant_array(input_at(equal, 1), max_elements=1)
    trilu = equal.inputs[0].producer() if equal.inputs[0] is not None else None
    if zero is None or zero.size != 1 or float(zero.item()) != 0 or trilu is None or not is_op(trilu, "Trilu"):
        return False
    if int_attribute(trilu, "upper", 1) != 0 or input_at(trilu, 1) is not None:
        return False
    expand = trilu.inputs[0].producer() if trilu.inputs[0] is not None else None
    ones = constant_array(input_at(expand, 0), max_elements=1) if expand is not None else None
    return expand is not None and is_op(expand, "Expand") and ones is not None and bool((ones != 0).all())
