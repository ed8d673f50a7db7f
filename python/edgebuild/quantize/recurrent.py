"""LSTM with integer weights: the engine's DynamicQuantizeLSTM, whose activations get their range in each run."""

import numpy as np
import onnx_ir as ir

from edgebuild.graph.values import constant_array, input_at, remove_node
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.weights import quantize_weight


def quantize_lstm(editor: GraphEditor, layer: Layer, *, per_channel: bool, reduce_range: bool = False) -> None:
    """Replaces an LSTM node by DynamicQuantizeLSTM.

    Its weights are transposed: ``(directions, K, 4 hidden)`` where ONNX has ``(directions, 4 hidden, K)``.
    """
    node = layer.nodes[0]
    graph = editor.graph
    inputs: list[ir.Value | None] = [input_at(node, i) for i in range(8)]
    extra: list[ir.Value] = []
    for index in (1, 2):
        array = constant_array(inputs[index])
        assert array is not None
        name = inputs[index].name or layer.name  # type: ignore[union-attr]
        parts = [
            quantize_weight(
                np.ascontiguousarray(direction.T).astype(np.float32),
                1,
                per_channel=per_channel,
                reduce_range=reduce_range,
            )
            for direction in array
        ]
        values = np.stack([part.values for part in parts])
        scales = np.stack([part.scales if per_channel else part.scales.reshape(()) for part in parts])
        inputs[index] = editor.initializer(f"{name}_quantized", values, ir.DataType.INT8)
        extra.append(editor.initializer(f"{name}_scale", scales.astype(np.float32), ir.DataType.FLOAT))
        extra.append(editor.initializer(f"{name}_zero_point", np.zeros(scales.shape, np.int8), ir.DataType.INT8))
    attributes = [value for value in node.attributes.values() if value.name != "layout"]
    new = ir.Node(
        "com.microsoft",
        "DynamicQuantizeLSTM",
        [*inputs, *extra],
        attributes,
        num_outputs=len(node.outputs),
        name=editor.fresh_node(f"{layer.name}_DynamicQuantizeLSTM"),
    )
    graph.insert_after(node, new)
    for old, fresh in zip(node.outputs, new.outputs, strict=True):
        ir.convenience.replace_all_uses_with(old, fresh, replace_graph_outputs=True)
        name, kind, shape = old.name, old.type, old.shape
        old.name = None
        fresh.name, fresh.type, fresh.shape = name, kind, shape
    remove_node(node)
