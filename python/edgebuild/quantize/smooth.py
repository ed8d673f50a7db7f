"""Smoothing: moves the range of outlying channels from activations, which share one scale, into weights, which have many.

SmoothQuant (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023):
channel j of an activation is divided by ``s_j = max|X_j|^a / max|W_j|^(1-a)`` and row j of the weights that read it is multiplied
by it. The product is the same but for rounding. The division goes into the normalisation that makes the activation where all
its readers are such products, or into the product that makes an attention's values; else it is a multiplication of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.values import constant_array, input_at, is_op
from edgebuild.quantize.copies import Split
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.layers import Layer, find_layers
from edgebuild.quantize.split import split_channels

LIMIT = 2.0**10
"""Of a factor, both ways: a channel that is always 0 has no range to move, and float32 has to hold the weights."""

_GAIN = 2.0
"""The largest channel must be this many times the geometric mean of all, or there is no outlier worth a multiplication."""

_NORMS = {"LayerNormalization": (1, 2), "SimplifiedLayerNormalization": (1, None), "RMSNormalization": (1, None)}
"""Operators that end with a scale for each channel: positions of the scale and of the shift."""

Absmax = Mapping[str, npt.NDArray[np.float64]]


def smoothable(graph: ir.Graph) -> dict[str, list[Layer]]:
    """The products that read each activation, by its name; what smoothing needs each channel's largest magnitude of."""
    groups: dict[str, list[Layer]] = {}
    for layer in find_layers(graph):
        if layer.kind == "matmul" and layer.data.name:
            groups.setdefault(layer.data.name, []).append(layer)
    return groups


def smooth(
    model: ir.Model,
    absmax: Absmax,
    *,
    alpha: float = 0.5,
    alphas: Mapping[str, float] = MappingProxyType({}),
    splits: Mapping[str, Split] = MappingProxyType({}),
    layers: Collection[str] | None = None,
) -> int:
    """Splits channels in place as asked for, then smooths every activation with outlying channels.

    Args:
        model: Float graph.
        absmax: Largest magnitude of each channel of the activations, ``(K,)``, by name; those that are missing stay.
        alpha: How much of the range moves, from 0 (none) to 1 (all).
        alphas: The same for single activations, by name.
        splits: What is split first, by the activation's name.
        layers: Names of those that will be quantised; None: all. What none of them reads stays as it is.

    Returns:
        How many activations were smoothed.

    Raises:
        InternalError: A split does not fit.
    """
    originals = {new: old for old, new in split_channels(model, splits, layers).items()}
    left = set(originals.values())
    editor = GraphEditor(model.graph)
    count = 0
    for name, readers in smoothable(model.graph).items():
        original = originals.get(name, name)
        if original not in absmax or name in left:
            continue
        if layers is not None and not any(layer.name in layers for layer in readers):
            continue
        largest = absmax[original]
        if name in originals:
            split = splits[original]
            largest = np.concatenate([largest, largest[split.extra()]]) / split.divisors(len(largest))
        factors = _factors(largest, readers, alphas.get(original, alpha))
        if factors is None:
            continue
        data = readers[0].data
        if not any(fold(editor, data, readers, factors) for fold in (_into_norm, _into_parts, _into_values)):
            _multiplication(editor, data, readers, factors)
        for layer in readers:
            _scale_rows(editor, layer, factors)
        count += 1
    return count


def _factors(largest: npt.NDArray[np.float64], layers: list[Layer], alpha: float) -> npt.NDArray[np.float64] | None:
    rows = np.max([_row_magnitudes(layer) for layer in layers], axis=0)
    return None if alpha == 0 else smoothing_factors(largest, rows, alpha)


def smoothing_factors(
    largest: npt.NDArray[np.float64], rows: npt.NDArray[Any], alpha: float
) -> npt.NDArray[np.float64] | None:
    """What each channel of an activation is divided by, ``(K,)``, with a geometric mean of 1.

    Args:
        largest: Largest magnitude of each channel of the activation, ``(K,)``.
        rows: That of each row of the weights that read it, ``(K,)``.
        alpha: How much of the range moves, from 0 to 1.

    Returns:
        None where no channel stands out.
    """
    if rows.shape != largest.shape or not np.isfinite(largest).all():
        return None
    seen = (largest > 0) & (rows > 0)
    if not seen.any():
        return None
    typical = float(np.exp(np.mean(np.log(largest[seen]))))
    if float(largest.max()) < _GAIN * typical:
        return None
    factors = np.ones_like(largest)
    factors[seen] = largest[seen] ** alpha / rows[seen] ** (1 - alpha)
    factors[seen] /= np.exp(np.mean(np.log(factors[seen])))
    # Powers of two would be exact; the gain in accuracy is that of the mantissa's last bit, the loss half a step.
    return np.clip(factors, 1 / LIMIT, LIMIT)


def _row_magnitudes(layer: Layer) -> npt.NDArray[np.float64]:
    weight = np.abs(layer.weight_array().astype(np.float64))
    return np.asarray(weight.max(axis=0 if layer.transposed else 1))


def _read_by_others(data: ir.Value, layers: Sequence[Layer]) -> bool:
    readers = {layer.nodes[0] for layer in layers}
    return data.is_graph_output() or any(use.node not in readers for use in data.uses())


def folds(layers: Sequence[Layer]) -> bool:
    """Whether what the readers of one activation are smoothed with takes no time: what makes the activation takes it in."""
    data, node = layers[0].data, layers[0].data.producer()
    if node is None or _read_by_others(data, layers):
        return False
    return (node.op_type in _NORMS and data is node.outputs[0]) or _values_of(data, layers) is not None


def _into_values(
    editor: GraphEditor, data: ir.Value, layers: Sequence[Layer], factors: npt.NDArray[np.float64]
) -> bool:
    """Divides the columns of the product that makes an attention's values: it gives sums of these, channel by channel."""
    values = _values_of(data, layers)
    if values is None or values.weight_shape[0 if values.transposed else 1] != len(factors):
        return False
    _divide_constant(editor, values.nodes[0], 1, factors[:, None] if values.transposed else factors)
    if values.bias is not None:
        node = values.nodes[-1]
        _divide_constant(editor, node, [value is values.bias for value in node.inputs].index(True), factors)
    return True


def _values_of(data: ir.Value, layers: Sequence[Layer]) -> Layer | None:
    """The product that makes the values of the attention that makes ``data``, if nothing else reads either."""
    node = data.producer()
    if node is None or node.op_type != "MultiHeadAttention" or data is not node.outputs[0] or len(node.outputs) > 1:
        return None
    values = input_at(node, 2)
    if values is None or input_at(node, 3) is not None or _read_by_others(data, layers):
        return None
    if values.is_graph_output() or len(values.uses()) != 1 or node.graph is None:
        return None
    return next((layer for layer in find_layers(node.graph) if layer.kind == "matmul" and layer.output is values), None)


def _into_parts(editor: GraphEditor, data: ir.Value, layers: list[Layer], factors: npt.NDArray[np.float64]) -> bool:
    """Divides the constant of the multiplication that makes ``data``, as that of split channels, if nobody else reads it."""
    node = data.producer()
    if node is None or not is_op(node, "Mul") or _read_by_others(data, layers):
        return False
    array = constant_array(node.inputs[1])
    if array is None or array.shape != factors.shape:
        return False
    _divide_constant(editor, node, 1, factors)
    return True


def _into_norm(editor: GraphEditor, data: ir.Value, layers: list[Layer], factors: npt.NDArray[np.float64]) -> bool:
    """Divides the scale and shift of the normalisation that makes ``data``, if nobody else reads it."""
    node = data.producer()
    if node is None or node.op_type not in _NORMS or data is not node.outputs[0] or _read_by_others(data, layers):
        return False
    positions = [position for position in _NORMS[node.op_type] if position is not None]
    arrays = {position: constant_array(input_at(node, position)) for position in positions}
    present = {position: array for position, array in arrays.items() if input_at(node, position) is not None}
    if any(array is None or array.shape != factors.shape for array in present.values()):
        return False
    for position in present:
        _divide_constant(editor, node, position, factors)
    return True


def _divide_constant(editor: GraphEditor, node: ir.Node, position: int, divisors: npt.NDArray[np.float64]) -> None:
    value = node.inputs[position]
    array = constant_array(value)
    assert value is not None
    assert array is not None
    divided = (array.astype(np.float64) / divisors).astype(np.float32)
    node.replace_input_with(position, editor.initializer(f"{value.name}_smoothed", divided, ir.DataType.FLOAT))


def _multiplication(editor: GraphEditor, data: ir.Value, layers: list[Layer], factors: npt.NDArray[np.float64]) -> None:
    inverse = (1 / factors).astype(np.float32)
    scale = editor.initializer(f"{data.name}_smoothing", inverse, ir.DataType.FLOAT)
    node = ir.node("Mul", [data, scale], name=f"{data.name}_smoothing")
    output = node.outputs[0]
    output.name = editor.fresh(f"{data.name}_smoothed")
    output.type, output.shape = data.type, data.shape
    editor.insert_behind(data, [node])
    for layer in layers:
        layer.nodes[0].replace_input_with(0, output)


def _scale_rows(editor: GraphEditor, layer: Layer, factors: npt.NDArray[np.float64]) -> None:
    # As it is now: where the product makes the values of an attention its columns may have been divided before.
    _divide_constant(editor, layer.nodes[0], 1, 1 / (factors[None, :] if layer.transposed else factors[:, None]))
