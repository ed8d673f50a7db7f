"""What must hold for a graph before and after every pass, checked without serialising weights."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

_HASHED_TENSOR_BYTES = 1 << 20
"""Larger tensors are told apart by identity: hashing gigabytes after every pass would cost more than the passes."""


class GraphInvariantError(Exception):
    """A graph breaks a rule of ONNX; the message names the graph, the node and the value."""


@dataclass(frozen=True, kw_only=True)
class GraphInterface:
    """Names, order, dtypes and axes of a model's inputs and outputs: what no pass may change."""

    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, model: ir.Model) -> "GraphInterface":
        """The interface of a model as it is now, as strings that no later change can reach."""
        return cls(
            inputs=tuple(_describe(value) for value in model.graph.inputs),
            outputs=tuple(_describe(value) for value in model.graph.outputs),
        )

    def difference(self, other: "GraphInterface") -> str | None:
        """The first difference as one phrase, or None."""
        for kind, mine, theirs in (("input", self.inputs, other.inputs), ("output", self.outputs, other.outputs)):
            if len(mine) != len(theirs):
                return f"{len(mine)} {kind}s became {len(theirs)}"
            for before, after in zip(mine, theirs, strict=True):
                if before != after:
                    return f"{kind} {' '.join(before)} became {' '.join(after)}"
        return None


def _describe(value: ir.Value) -> tuple[str, str, str]:
    return (value.name or "", str(value.type), "?" if value.shape is None else str(value.shape))


def check_graph(model: ir.Model) -> None:
    """Check that every graph and function is sorted, unambiguous and self-contained.

    Raises:
        GraphInvariantError: A value is used before it is made or never made, two values of one scope share a name, an
            initialiser has no data, an output has no name, or a domain is used that the model does not import.
    """
    _check_scope(model.graph, set(), set(), model.graph.opset_imports, where="graph")
    for function in model.functions.values():
        where = f"function {function.domain}::{function.name}"
        _check_scope(function, set(), set(), function.opset_imports, where=where)


def _check_scope(
    graph: ir.Graph | ir.Function, values: set[int], names: set[str], imports: dict[str, int], *, where: str
) -> None:
    values, names = set(values), set(names)  # a subgraph sees its parents; its siblings do not see it

    def define(value: ir.Value, what: str) -> None:
        if not value.name:
            msg = f"{where}: {what} has no name"
            raise GraphInvariantError(msg)
        if id(value) in values:
            return
        if value.name in names:
            msg = f"{where}: two values are named '{value.name}', the second is {what}"
            raise GraphInvariantError(msg)
        names.add(value.name)
        values.add(id(value))

    for value in graph.inputs:
        define(value, "an input")
    if isinstance(graph, ir.Graph):
        for name, value in graph.initializers.items():
            if value.const_value is None:
                msg = f"{where}: initialiser '{name}' has no data"
                raise GraphInvariantError(msg)
            define(value, "an initialiser")
    node_names: set[str] = set()
    for node in graph:
        label = f"node '{node.name}' ({node.op_type})"
        if node.name:
            if node.name in node_names:
                msg = f"{where}: two nodes are named '{node.name}'"
                raise GraphInvariantError(msg)
            node_names.add(node.name)
        if node.domain not in imports:
            msg = f"{where}: {label} uses domain '{node.domain}', which the model does not import"
            raise GraphInvariantError(msg)
        for read in node.inputs:
            if read is not None and id(read) not in values:
                msg = f"{where}: {label} reads '{read.name}', which nothing before it makes"
                raise GraphInvariantError(msg)
        for body in subgraphs(node):
            _check_scope(body, values, names, imports, where=f"{where} > {label}")
        for value in node.outputs:
            if value.name:  # "" marks an optional output that is not asked for
                define(value, f"an output of {label}")
            elif value.uses() or value.is_graph_output():
                msg = f"{where}: {label} has a used output without a name"
                raise GraphInvariantError(msg)
    for value in graph.outputs:
        if id(value) not in values:
            msg = f"{where}: output '{value.name}' is made by nothing"
            raise GraphInvariantError(msg)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies of a control-flow node, in attribute order."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def fingerprint(model: ir.Model) -> str:
    """A hash that changes whenever the serialised model would, up to the contents of tensors over 1 MiB.

    Those count by identity, so two fingerprints are comparable only within one process and one model's life.
    """
    digest = hashlib.sha256()

    def put(*parts: object) -> None:
        digest.update(repr(parts).encode())

    put(model.ir_version, model.producer_name, model.producer_version, model.domain, model.doc_string)
    put(sorted(model.opset_imports.items()), sorted(model.metadata_props.items()))
    _fingerprint_graph(model.graph, put)
    for function in model.functions.values():
        _fingerprint_graph(function, put)
    return digest.hexdigest()


def _fingerprint_graph(graph: ir.Graph | ir.Function, put: Callable[..., None]) -> None:
    put("graph", graph.name, graph.doc_string, sorted(graph.metadata_props.items()))
    put([_value(value) for value in graph.inputs])
    if isinstance(graph, ir.Graph):
        for name, value in graph.initializers.items():
            put(name, _value(value), _tensor(value.const_value))
    for node in graph:
        put(node.domain, node.op_type, node.overload, node.name, node.doc_string, sorted(node.metadata_props.items()))
        put([value.name if value is not None else "" for value in node.inputs])
        put([_value(value) for value in node.outputs])
        for name, attribute in node.attributes.items():
            kind = attribute.type
            if attribute.is_ref():
                put(name, kind, attribute.ref_attr_name)
            elif kind == ir.AttributeType.TENSOR:
                put(name, kind, _tensor(attribute.as_tensor()))
            elif kind == ir.AttributeType.TENSORS:
                put(name, kind, [_tensor(tensor) for tensor in attribute.as_tensors()])
            elif kind not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                put(name, kind, attribute.value)
        for body in subgraphs(node):
            _fingerprint_graph(body, put)
    put([_value(value) for value in graph.outputs])


def _value(value: ir.Value) -> tuple[object, ...]:
    return (*_describe(value), value.doc_string, sorted(value.metadata_props.items()))


def _tensor(tensor: ir.TensorProtocol | None) -> tuple[object, ...]:
    if tensor is None:
        return (None,)
    header = (str(tensor.dtype), str(tensor.shape), tensor.doc_string or "", sorted(tensor.metadata_props.items()))
    if tensor.dtype == ir.DataType.STRING:
        return (*header, tuple(tensor.numpy().ravel().tolist()))
    if tensor.nbytes > _HASHED_TENSOR_BYTES:
        return (*header, id(tensor))
    return (*header, hashlib.sha256(tensor.tobytes()).hexdigest())
