"""Merges initialisers that are byte for byte the same.

Takes: initialisers of one graph with equal dtype, shape and bytes; readers of the later one read the first.

Refuses: equal values of another dtype or shape; -0.0 and 0.0, and NaNs of other bits (bytes decide); initialisers
that are inputs (a caller may override one of them) or that would vanish as outputs of the graph.

Numbers: none change. Memory: tensors are hashed where they are mapped, and only if another has their dtype and shape.
"""

import hashlib

import numpy as np
import onnx_ir as ir

from edgebuild.graph.framework import GraphPass


class DuplicateInitializers(GraphPass):
    """Merges equal initialisers within each graph."""

    def __init__(self) -> None:
        super().__init__()
        # The tensor is kept beside its digest so that its id stays its own.
        self._digests: dict[int, tuple[ir.TensorProtocol, bytes]] = {}

    @property
    def name(self) -> str:
        return "duplicate-initializers"

    def rewrite(self, model: ir.Model) -> int:
        return sum(self._merge(graph) for graph in model.graphs())

    def _merge(self, graph: ir.Graph) -> int:
        groups: dict[tuple[ir.DataType, str], list[tuple[ir.Value, ir.TensorProtocol]]] = {}
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not value.is_graph_input():
                groups.setdefault((tensor.dtype, str(tensor.shape)), []).append((value, tensor))
        merged = 0
        for group in groups.values():
            if len(group) < 2:
                continue
            first: dict[bytes, ir.Value] = {}
            for value, tensor in group:
                kept = first.setdefault(self._digest(tensor), value)
                if kept is value or value.is_graph_output() or value.name is None:
                    continue
                value.replace_all_uses_with(kept)
                del graph.initializers[value.name]
                merged += 1
        return merged

    def _digest(self, tensor: ir.TensorProtocol) -> bytes:
        known = self._digests.get(id(tensor))
        if known is None:
            known = (tensor, content_digest(tensor))
            self._digests[id(tensor)] = known
        return known[1]


def content_digest(tensor: ir.TensorProtocol) -> bytes:
    """SHA-256 of a tensor's elements, read in place."""
    if tensor.dtype == ir.DataType.STRING:
        digest = hashlib.sha256()
        for item in tensor.numpy().ravel().tolist():
            text = item if isinstance(item, bytes) else str(item).encode()
            digest.update(len(text).to_bytes(8, "little") + text)
        return digest.digest()
    array = np.ascontiguousarray(tensor.numpy())
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).digest()
