"""Folds inference batch norm into the convolution before it.

Takes: ``BatchNormalization(Conv(x, W[, B]))`` and the same with ConvTranspose, any number of groups and spatial axes.
With ``s = scale / sqrt(var + epsilon)``: ``W' = W * s`` along W's output channels and ``B' = (B - mean) * s + bias``.

Refuses: a convolution whose output has another reader or is a graph's output; batch norm in training mode, with more
than its first output in use, or per activation (``spatial = 0``); parameters that are not constant (also those that a
caller may override) or whose sizes do not fit; ``var + epsilon <= 0``; folded weights that overflow their type.

Numbers: computed in float64 and rounded once to the weights' type; results differ by rounding only.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.values import (
    add_initializer,
    bypass,
    constant_array,
    float_attribute,
    input_at,
    int_attribute,
    is_op,
    remove_node,
)

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


class ConvBatchNormFolding(GraphPass):
    """Folds batch norm into Conv and ConvTranspose, in the graph and all bodies."""

    @property
    def name(self) -> str:
        return "conv-batch-norm"

    def rewrite(self, model: ir.Model) -> int:
        return sum(_fold(model.graph, node) for node in list(model.graph.all_nodes()))


def _fold(main: ir.Graph, norm: ir.Node) -> int:
    if not is_op(norm, "BatchNormalization") or norm.graph is None:
        return 0
    product = norm.inputs[0]
    conv = product.producer() if product is not None else None
    if product is None or conv is None or not is_op(conv, "Conv", "ConvTranspose") or conv.graph is not norm.graph:
        return 0
    affine = batch_norm_affine(norm)
    if affine is None or len(product.uses()) != 1 or product.is_graph_output():
        return 0
    scale, shift = affine
    weight_value, bias_value = input_at(conv, 1), input_at(conv, 2)
    weight = constant_array(weight_value)
    if weight is None or weight_value is None or weight_value.dtype not in FLOATS or weight.ndim < 3:
        return 0
    bias = np.zeros(scale.size) if bias_value is None else constant_array(bias_value)
    group = int_attribute(conv, "group", 1)
    if bias is None or group is None or group < 1:
        return 0
    factors = _along_output_channels(weight, scale, group, transposed=conv.op_type == "ConvTranspose")
    if factors is None or bias.shape != scale.shape:
        return 0
    dtype = weight_value.dtype
    new_weight = rounded(weight.astype(np.float64) * factors, dtype)
    new_bias = rounded(bias.astype(np.float64) * scale + shift, dtype)
    if new_weight is None or new_bias is None:
        return 0
    stem = norm.outputs[0].name or "conv"
    new_values = (
        add_initializer(main, f"{stem}.folded_weight", new_weight, dtype),
        add_initializer(main, f"{stem}.folded_bias", new_bias, dtype),
    )
    conv.resize_inputs(3)
    conv.replace_input_with(1, new_values[0])
    conv.replace_input_with(2, new_values[1])
    if not bypass(norm.outputs[0], product):
        msg = f"the output of '{norm.name}' can't take the place of '{product.name}'"
        raise RuntimeError(msg)
    remove_node(norm)
    return 1


def batch_norm_affine(norm: ir.Node) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Batch norm as ``y = x * scale + shift``, both ``(C,)``; None where it trains or is not constant."""
    if int_attribute(norm, "training_mode", 0) != 0 or int_attribute(norm, "spatial", 1) != 1:
        return None
    if any(output.name and (output.uses() or output.is_graph_output()) for output in norm.outputs[1:]):
        return None
    epsilon = float_attribute(norm, "epsilon", 1e-5)
    arrays = [constant_array(input_at(norm, index)) for index in range(1, 5)]
    if epsilon is None or any(array is None or array.ndim != 1 for array in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(array, dtype=np.float64) for array in arrays)
    if not gamma.shape == beta.shape == mean.shape == variance.shape or not (variance + epsilon > 0).all():
        return None
    scale = gamma / np.sqrt(variance + epsilon)
    shift = beta - mean * scale
    return (scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def rounded(array: npt.NDArray[np.float64], dtype: ir.DataType) -> npt.NDArray[np.generic] | None:
    """The array in its final type; None if a value does not fit."""
    with np.errstate(over="ignore"):
        result = array.astype(dtype.numpy())
    return result if np.isfinite(result.astype(np.float64)).all() else None


def _along_output_channels(
    weight: npt.NDArray[np.generic], scale: npt.NDArray[np.float64], group: int, *, transposed: bool
) -> npt.NDArray[np.float64] | None:
    """``scale (M,)`` shaped to multiply W: ``(M, C/group, ...)`` of Conv, ``(C, M/group, ...)`` of ConvTranspose."""
    ones = (1,) * (weight.ndim - 2)
    if not transposed:
        return scale.reshape(-1, 1, *ones) if weight.shape[0] == scale.size else None
    channels, per_group = weight.shape[:2]
    if channels % group or per_group * group != scale.size:
        return None
    # Rows of one group of input channels all feed that group's output channels.
    return np.repeat(scale.reshape(group, per_group), channels // group, axis=0).reshape(channels, per_group, *ones)
