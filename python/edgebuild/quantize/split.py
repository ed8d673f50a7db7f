"""Splitting: an outlying channel of an activation becomes several with a part of its value each, so that it no longer sets the scale.

Outlier channel splitting (Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel Splitting", ICML
2019): a channel is replaced by r copies that are r times as small, and the rows of the weights that read it are repeated. The product is the
same but for rounding, and nothing moves into the weights. Copies that were equal would be rounded alike and their errors add up; they are shifted
against each other by the r-th part of a step, and the shifts cancel: the sum is then rounded as finely as a channel that was not split (Hermite's
identity, ``sum floor(x + i/r) = floor(r x)``; the paper's quantisation-aware splitting is its case of two).

Measured on MiniLM: 12 columns more than 384, for four outlying channels behind each LayerNormalization, leave 3 to 4 dB less noise in the
products that read them than the best smoothing alone.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgebuild.errors import InternalError
from edgebuild.quantize.copies import Split
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.layers import Layer, find_layers


def split_channels(
    model: ir.Model, splits: Mapping[str, Split], layers: Collection[str] | None = None
) -> dict[str, str]:
    """Splits channels in place, for products alone; others that read the activation go on reading it as it is.

    Args:
        model: Float graph.
        splits: By the activation's name; what no product reads is left aside.
        layers: Names of those that will be quantised; None: all.

    Returns:
        The names of the split activations, by the names of those that were split.

    Raises:
        InternalError: A split does not fit the activation.
    """
    editor = GraphEditor(model.graph)
    readers: dict[str, list[Layer]] = {}
    for layer in find_layers(model.graph):
        if layer.kind == "matmul" and layer.data.name in splits and (layers is None or layer.name in layers):
            readers.setdefault(layer.data.name or "", []).append(layer)
    return {name: _split(editor, splits[name], found) for name, found in readers.items()}


def _split(editor: GraphEditor, split: Split, layers: Sequence[Layer]) -> str:
    data = layers[0].data
    channels = layers[0].weight_shape[1 if layers[0].transposed else 0]
    if split.channels[-1] >= channels:
        msg = f"the quantisation plan splits channel {split.channels[-1]} of '{data.name}', which has {channels}"
        raise InternalError(msg)
    name = data.name or ""
    extra, divisors, shifts = split.extra(), split.divisors(channels), split.shifts()
    nodes = [ir.node("Gather", [data, editor.initializer(f"{name}_outliers", extra, ir.DataType.INT64)], {"axis": -1})]
    if shifts.any():
        shift = editor.initializer(f"{name}_shifts", shifts.astype(np.float32), ir.DataType.FLOAT)
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], shift]))
    nodes.append(ir.node("Concat", [data, nodes[-1].outputs[0]], {"axis": -1}))
    parts = editor.initializer(f"{name}_parts", (1 / divisors).astype(np.float32), ir.DataType.FLOAT)
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], parts]))
    for node in nodes:
        node.name = editor.fresh_node(f"{name}_split_{node.op_type}")
        node.outputs[0].name = editor.fresh(f"{name}_split_{node.op_type}")
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    output = nodes[-1].outputs[0]
    if data.shape is not None and len(data.shape):
        output.shape = ir.Shape([*data.shape[:-1], channels + len(extra)])
    editor.insert_behind(data, nodes)
    rows = np.concatenate([np.arange(channels), extra])
    for layer in layers:
        weight = layer.weight_array()
        repeated = weight[:, rows] if layer.transposed else weight[rows]
        value = editor.initializer(f"{layer.weight.name}_split", repeated, ir.DataType.FLOAT)
        layer.nodes[0].replace_input_with(0, output)
        layer.nodes[0].replace_input_with(1, value)
    assert output.name is not None
    return output.name
