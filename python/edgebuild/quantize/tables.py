"""Embedding tables as integers: a scale for each row, made float again behind the Gather that picks the rows.

In a small transformer most of the file is the table of its vocabulary (MiniLM: 45 of 87 MiB), of which a run reads a few rows. So it costs no time to
speak of to store it in 8 bits (MiniLM: 10 µs in 5 ms), and hardly any accuracy (43 dB). The integers are gathered, cast and multiplied by the
gathered scales, all with standard operators; com.microsoft's GatherBlockQuantized takes as long and only ONNX Runtime has it.
"""

import numpy as np
import onnx_ir as ir

from edgebuild.errors import InternalError
from edgebuild.graph.values import constant_array, constant_tensor, int_attribute, is_op, static_dims
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.weights import quantize_weight

SMALLEST_TABLE = 1 << 16
"""Elements below which a table is not worth the extra operators."""


def find_tables(graph: ir.Graph) -> tuple[str, ...]:
    """Names of the tables that can be stored as integers: large, constant, float32, read by Gather of rows only."""
    return tuple(
        name
        for name, value in graph.initializers.items()
        if constant_tensor(value) is not None and _gathers(graph, value) and _large(value)
    )


def quantize_table(editor: GraphEditor, name: str) -> None:
    """Replaces a table by its integers.

    Args:
        editor: Of the graph.
        name: One of ``find_tables``.

    Raises:
        InternalError: It is no such table.
    """
    graph = editor.graph
    value = graph.initializers.get(name)
    array = None if value is None else constant_array(value)
    gathers = [] if value is None else _gathers(graph, value)
    if value is None or array is None or array.dtype != np.float32 or array.ndim != 2 or not gathers:
        msg = f"the quantisation plan names '{name}' as a table, which the graph has not"
        raise InternalError(msg)
    if not np.isfinite(array).all():
        msg = f"the table '{name}' holds values that are not finite"
        raise InternalError(msg)
    integers = quantize_weight(np.asarray(array, np.float32), 0)
    rows = editor.initializer(f"{name}_quantized", integers.values, ir.DataType.INT8)
    scales = editor.initializer(f"{name}_scale", integers.scales.reshape(-1, 1), ir.DataType.FLOAT)
    for gather in gathers:
        _dequantize(editor, gather, rows, scales)


def _dequantize(editor: GraphEditor, gather: ir.Node, rows: ir.Value, scales: ir.Value) -> None:
    graph, indices, old = editor.graph, gather.inputs[1], gather.outputs[0]
    stem, shape, name = gather.name or old.name or "embedding", old.shape, old.name
    picked = ir.node("Gather", [rows, indices], {"axis": 0}, name=editor.fresh_node(f"{stem}_rows"))
    cast = ir.node("Cast", picked.outputs, {"to": ir.DataType.FLOAT.value}, name=editor.fresh_node(f"{stem}_cast"))
    factors = ir.node("Gather", [scales, indices], {"axis": 0}, name=editor.fresh_node(f"{stem}_scales"))
    product = ir.node("Mul", [cast.outputs[0], factors.outputs[0]], name=editor.fresh_node(f"{stem}_dequantized"))
    for node, kind in ((picked, ir.DataType.INT8), (cast, ir.DataType.FLOAT), (factors, ir.DataType.FLOAT)):
        node.outputs[0].name = editor.fresh(node.name or stem)
        node.outputs[0].type = ir.TensorType(kind)
    new = product.outputs[0]
    new.type, new.shape = old.type, shape
    graph.insert_after(gather, [picked, cast, factors, product])
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    old.name, new.name = None, name
    graph.remove(gather, safe=True)


def _gathers(graph: ir.Graph, value: ir.Value) -> list[ir.Node]:
    """The Gathers of rows that read a value; empty if anything else does, too."""
    nodes = [use.node for use in value.uses()]
    fits = all(
        is_op(node, "Gather")
        and node.graph is graph
        and node.inputs[0] is value
        and node.inputs[1] is not value
        and int_attribute(node, "axis", 0) == 0
        for node in nodes
    )
    return nodes if fits and not value.is_graph_output() else []


def _large(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(static_dims(tensor)) != 2:
        return False
    array = constant_array(value)
    return tensor.size >= SMALLEST_TABLE and array is not None and bool(np.isfinite(array).all())
