"""Writes an ONNX model without holding its weights a second time: headers by protobuf, weights streamed tensor by tensor."""

from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

EXTERNAL_FROM_BYTES = 256 << 20
"""Weights of this size or more go to ``model.onnx.data``: whoever reads a message holds it several times over, and it ends at 2 GiB."""

INLINE_BELOW = 1024
"""Bytes; smaller tensors travel inside the graph's own message."""

_ALIGNMENT = 4096  # of a tensor in the data file, so that an engine can map it

# Field numbers and wire types of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = (7 << 3) | 2, (5 << 3) | 2, (9 << 3) | 2


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _header(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    return onnx.TensorProto(name=name, dims=[int(d) for d in tensor.shape.numpy()], data_type=tensor.dtype.value)


def write_onnx(model: ir.Model, path: Path, *, external: bool | None = None) -> None:
    """Writes ``model`` to ``path``; the bytes depend on nothing but the model.

    Args:
        model: Unchanged on return.
        path: ``DIR/model.onnx``; with external data also ``DIR/model.onnx.data``.
        external: Whether weights go to the data file; None: from 256 MiB on.

    Raises:
        OSError: Disk full, or the folder can't be written.
    """
    graph = model.graph
    if external is None:
        external = weight_bytes(model) >= EXTERNAL_FROM_BYTES
    large = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= INLINE_BELOW
        and value.const_value.dtype != ir.DataType.STRING
    }
    order = list(graph.initializers.items())
    for name in large:
        graph.initializers.pop(name)
    try:
        proto = ir.to_proto(model)
    finally:
        graph.initializers.clear()
        for _, value in order:
            graph.initializers.add(value)
    body = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    head = proto.SerializeToString(deterministic=True)

    if external:
        _write_external(path, head, body, large)
        return
    pieces = []
    total = len(body)
    for name, value in large.items():
        tensor = value.const_value
        assert tensor is not None
        header = _header(name, tensor).SerializeToString(deterministic=True)
        header += _varint(_TENSOR_RAW_DATA) + _varint(tensor.nbytes)
        prefix = _varint(_GRAPH_INITIALIZER) + _varint(len(header) + tensor.nbytes) + header
        pieces.append((prefix, tensor))
        total += len(prefix) + tensor.nbytes
    with path.open("wb") as file:
        file.write(head + _varint(_MODEL_GRAPH) + _varint(total) + body)
        for prefix, tensor in pieces:
            file.write(prefix)
            _write_tensor(file, tensor)


def _write_tensor(file: BinaryIO, tensor: ir.TensorProtocol) -> None:
    data = tensor.tobytes()
    if len(data) != tensor.nbytes:
        message = f"tensor {tensor.name} has {len(data)} bytes instead of {tensor.nbytes}"
        raise AssertionError(message)
    file.write(data)


def _write_external(path: Path, head: bytes, body: bytes, large: dict[str, ir.Value]) -> None:
    graph = bytearray(body)
    location = path.name + ".data"
    with path.with_name(location).open("wb") as data:
        for name, value in large.items():
            tensor = value.const_value
            assert tensor is not None
            data.write(b"\0" * (-data.tell() % _ALIGNMENT))
            header = _header(name, tensor)
            header.data_location = onnx.TensorProto.EXTERNAL
            for key, text in (("location", location), ("offset", data.tell()), ("length", tensor.nbytes)):
                header.external_data.add(key=key, value=str(text))
            _write_tensor(data, tensor)
            encoded = header.SerializeToString(deterministic=True)
            graph += _varint(_GRAPH_INITIALIZER) + _varint(len(encoded)) + encoded
    path.write_bytes(head + _varint(_MODEL_GRAPH) + _varint(len(graph)) + bytes(graph))
