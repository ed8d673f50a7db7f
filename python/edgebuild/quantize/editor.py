"""GraphEditor: adds values to a graph under names that are free, without looking through the whole graph for each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


class GraphEditor:
    """Names and initialisers of one graph, while nobody else adds any.

    Args:
        graph: The main graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = set(graph.initializers)
        self._taken.update(value.name for value in graph.inputs if value.name)
        self._taken.update(value.name for node in graph.all_nodes() for value in node.outputs if value.name)
        self._taken_by_nodes = {node.name for node in graph.all_nodes() if node.name}

    def fresh(self, wanted: str) -> str:
        """``wanted``, or the first free ``wanted_1``, ``wanted_2``, …; taken from now on."""
        return _free(wanted, self._taken)

    def fresh_node(self, wanted: str) -> str:
        """The same among the names of nodes."""
        return _free(wanted, self._taken_by_nodes)

    def initializer(self, wanted: str, array: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        """Registers an array as a new initialiser."""
        name = self.fresh(wanted)
        tensor = ir.Tensor(np.asarray(array, order="C"), dtype=dtype, name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def insert_behind(self, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Puts nodes directly behind what makes a value; those that read an input of the graph come first."""
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(next(iter(self.graph)), nodes)
        else:
            self.graph.insert_after(producer, nodes)


def _free(wanted: str, taken: set[str]) -> str:
    name, index = wanted, 0
    while name in taken:
        index += 1
        name = f"{wanted}_{index}"
    taken.add(name)
    return name
