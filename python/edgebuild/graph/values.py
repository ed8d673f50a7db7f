"""Small questions about values and attributes that every pass asks."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

DEFAULT_DOMAINS = ("", "ai.onnx")


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of these standard ONNX operators."""
    return node is not None and node.domain in DEFAULT_DOMAINS and node.op_type in op_types


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that no caller can change: an initialiser that is no input, or a Constant node."""
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def constant_array(value: ir.Value | None, *, max_elements: int | None = None) -> npt.NDArray[np.generic] | None:
    """The array of a constant, unless it is larger than ``max_elements`` or holds strings."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    if max_elements is not None and tensor.size > max_elements:
        return None
    return np.asarray(tensor.numpy())


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value if its rank and every axis are known."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    return sizes if len(sizes) == len(dims) else None


def static_dims(tensor: ir.TensorProtocol) -> list[int]:
    """A tensor's sizes as plain integers, which a constant's always are."""
    return [int(size) for size in tensor.shape.numpy()]


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """The input at a position, None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def int_attribute(node: ir.Node, name: str, default: int) -> int | None:
    """An integer attribute or its default; None if it refers to a function's attribute."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    return None if attribute.is_ref() else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float | None:
    """A float attribute or its default; None if it refers to a function's attribute."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    return None if attribute.is_ref() else attribute.as_float()


def opset_of(model: ir.Model) -> int:
    """The version of the standard operators that the model imports, 0 if none."""
    imports = model.graph.opset_imports
    return max((imports[domain] for domain in DEFAULT_DOMAINS if domain in imports), default=0)


def bypass(old: ir.Value, new: ir.Value) -> bool:
    """Make every reader of ``old`` read ``new``, which has the same contents.

    If ``old`` is a graph's output, ``new`` takes over its name, type and shape, which must not change; that is possible
    only where ``new`` is made by a node of the same graph and is no output itself.

    Returns:
        False, with nothing changed, where it is not possible.
    """
    if old.is_graph_output():
        maker, owner = new.producer(), old.producer()
        if maker is None or owner is None or maker.graph is not owner.graph or new.is_graph_output():
            return False
        graph = owner.graph
        if graph is None or sum(output is old for output in graph.outputs) != 1:
            return False
        name, kind, shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name = None
        new.name, new.type, new.shape = name, kind, shape
        return True
    ir.convenience.replace_all_uses_with(old, new)
    return True


def supersede(old: ir.Value, new: ir.Value) -> None:
    """Make every reader of ``old`` read ``new``, and take out what is then read by nobody.

    Raises:
        RuntimeError: It is not possible; see ``bypass``.
    """
    if not bypass(old, new):
        msg = f"'{new.name}' can't take the place of '{old.name}'"
        raise RuntimeError(msg)
    todo = [old.producer()]
    while todo:
        node = todo.pop()
        if node is None or node.graph is None:
            continue
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        todo.extend(makers)


def remove_node(node: ir.Node) -> None:
    """Take a node whose outputs nobody reads out of its graph."""
    graph = node.graph
    if graph is None:
        msg = f"node '{node.name}' is in no graph"
        raise ValueError(msg)
    graph.remove(node, safe=True)


def unique_name(graph: ir.Graph, wanted: str) -> str:
    """A value name that no value of the graph has: ``wanted``, or the first free ``wanted_1``, ``wanted_2``, …."""
    taken = set(graph.initializers)
    taken.update(value.name for value in graph.inputs if value.name)
    taken.update(value.name for node in graph.all_nodes() for value in node.outputs if value.name)
    name, index = wanted, 0
    while name in taken:
        index += 1
        name = f"{wanted}_{index}"
    return name


def add_initializer(graph: ir.Graph, wanted: str, array: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
    """Register an array as a new initialiser."""
    name = unique_name(graph, wanted)
    tensor = ir.Tensor(np.asarray(array, order="C"), dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
