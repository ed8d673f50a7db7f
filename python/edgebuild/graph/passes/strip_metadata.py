"""Strips doc strings and metadata from a model.

Takes: doc strings and metadata properties of the model, its graphs, functions, nodes and values, and the names of the
producer. Exporters write stack traces with source paths there: two builds from two folders would differ, and a bundle
would tell where its model was made.

Refuses: metadata keys named in ``keep``.

Numbers: none change.
"""

from collections.abc import Collection, MutableMapping
from typing import Protocol

import onnx_ir as ir

from edgebuild.graph.framework import GraphPass
from edgebuild.graph.invariants import subgraphs


class _Described(Protocol):
    doc_string: str | None

    @property
    def metadata_props(self) -> MutableMapping[str, str]: ...


class StripMetadata(GraphPass):
    """Clears doc strings and metadata everywhere, except for the metadata keys in ``keep``."""

    def __init__(self, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._keep = frozenset(keep)

    @property
    def name(self) -> str:
        return "strip-metadata"

    def rewrite(self, model: ir.Model) -> int:
        stripped = self._clear(model) + self._clear_graph(model.graph)
        stripped += sum(self._clear_graph(function) for function in model.functions.values())
        if model.producer_name or model.producer_version:
            model.producer_name = model.producer_version = None
            stripped += 1
        return stripped

    def _clear_graph(self, graph: ir.Graph | ir.Function) -> int:
        stripped = self._clear(graph) + sum(self._clear(value) for value in graph.inputs)
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if not value.is_graph_input():
                    stripped += self._clear(value)
                if isinstance(value.const_value, ir.serde.TensorProtoTensor):
                    stripped += _clear_message(value.const_value)
                elif isinstance(value.const_value, (ir.Tensor, ir.ExternalTensor, ir.StringTensor)):
                    stripped += self._clear(value.const_value)
        for node in graph:
            stripped += self._clear(node) + sum(self._clear(value) for value in node.outputs)
            for attribute in node.attributes.values():
                if attribute.doc_string:
                    attribute.doc_string = None
                    stripped += 1
            stripped += sum(self._clear_graph(body) for body in subgraphs(node))
        return stripped

    def _clear(self, item: "_Described") -> int:
        stripped = 0
        if item.doc_string:
            item.doc_string = None
            stripped = 1
        for key in [key for key in item.metadata_props if key not in self._keep]:
            del item.metadata_props[key]
            stripped = 1
        return stripped


def _clear_message(tensor: ir.serde.TensorProtoTensor) -> int:
    """Strip a tensor that is still the message it was read from."""
    message = tensor.raw
    if not (message.doc_string or message.metadata_props or tensor.metadata_props):
        return 0
    message.ClearField("doc_string")
    message.ClearField("metadata_props")
    tensor.metadata_props.clear()
    return 1
