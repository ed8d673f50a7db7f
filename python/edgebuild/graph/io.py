"""Reading and writing ONNX files: lazily, inside one folder, and the same bytes every time."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from edgebuild.errors import ModelError, ResourceError
from edgebuild.graph.values import static_dims

PROTO_LIMIT_BYTES = (1 << 31) - 1
"""What protobuf can hold in one message."""

_ALIGNMENT = 4096
_EXTERNAL_ALWAYS_BYTES = 1024
"""With over 2 GB of weights everything from here up leaves the message, whatever the threshold."""
_MESSAGE_BUDGET_BYTES = 1 << 30


def load_model(path: Path) -> ir.Model:
    """Read an ONNX file; tensors in external files stay there, mapped when they are first read.

    Args:
        path: The ``.onnx`` file. External data must be regular files inside its folder.

    Raises:
        ModelError: The file is missing, empty, truncated or no ONNX model, or external data is missing, too short, outside the
            model's folder, or reached through a link.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise ModelError(msg) from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whose package has no types
        msg = f"{path}: not an ONNX model, or cut short ({len(data)} bytes)"
        raise ModelError(msg, hint="is it the right file, and was it copied whole?") from error
    del data
    if not proto.HasField("graph") or not proto.opset_import or proto.ir_version < 1:
        msg = (
            f"{path}: not an ONNX model: it has no {'graph' if not proto.HasField('graph') else 'opset or IR version'}"
        )
        raise ModelError(msg, hint="is it the right file, and was it copied whole?")
    try:
        model = ir.serde.deserialize_model(proto)
    except Exception as error:  # onnx_ir raises many types on a malformed message
        cause = error.__cause__ or error
        msg = (
            f"{path}: the ONNX model is malformed: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"
        )
        raise ModelError(msg) from error
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(path, folder, tensor)
            tensor.base_dir = folder
    return model


def _check_external(path: Path, folder: Path, tensor: ir.ExternalTensor) -> None:
    location = str(tensor.location)
    where = f"{path}: external data '{location}' of '{tensor.name}'"
    parts = Path(location).parts
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts:
        msg = f"{where}: must be a path inside the model's folder"
        raise ModelError(msg, hint="save the model again with its data beside it")
    current = folder
    try:
        for part in parts:
            current = current / part
            mode = current.lstat().st_mode
            if stat.S_ISLNK(mode):
                msg = f"{where}: is reached through a symbolic link"
                raise ModelError(msg, hint="put the file itself into the model's folder")
        if not stat.S_ISREG(mode):
            msg = f"{where}: is not a regular file"
            raise ModelError(msg)
        size = current.stat().st_size
    except OSError as error:
        msg = f"{where}: {error.strerror}"
        raise ModelError(msg, hint="keep the data file beside the model") from error
    offset, needed = tensor.offset or 0, tensor.nbytes
    length = needed if tensor.length is None else tensor.length
    if offset < 0 or length != needed or offset + length > size:
        msg = f"{where}: expected {needed} bytes at {offset}, the file has {size} and the model says {length}"
        raise ModelError(msg, hint="was the data file copied whole?")


def save_model(model: ir.Model, path: Path, *, external_threshold: int = 1024) -> list[Path]:
    """Write a model; equal models give equal bytes, whatever the folder.

    Weights of ``external_threshold`` bytes or more go to ONE file, ``<name>.data``, in the order of the initialisers, each at
    a multiple of 4096 bytes; string tensors stay in the message. With over 1 GiB of smaller weights the threshold
    drops to 1024 so that the message stays under 2 GB. Files appear whole or not at all; the model is unchanged.

    Returns:
        The files written: the model, then its data file if there is one.

    Raises:
        ModelError: The message would still be over 2 GB.
        ResourceError: The disk is full, or the folder can't be written.
    """
    inline = sum(t.nbytes for t in _initializers(model) if t.nbytes < external_threshold)
    if inline > _MESSAGE_BUDGET_BYTES:
        external_threshold = min(external_threshold, _EXTERNAL_ALWAYS_BYTES)
    data_name = f"{path.name}.data"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            wrote_data = _write(model, Path(scratch), path.name, data_name, external_threshold)
            written = [path]
            if wrote_data:
                Path(scratch, data_name).replace(path.parent / data_name)
                written.append(path.parent / data_name)
            Path(scratch, path.name).replace(path)
    except OSError as error:
        msg = f"{path}: can't be written: {error.strerror or error}"
        raise ResourceError(msg, hint="is there space on the disk, and may you write to the folder?") from error
    return written


def _write(model: ir.Model, folder: Path, name: str, data_name: str, threshold: int) -> bool:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    tensors = [value.const_value for value in values]
    offset = 0
    try:
        with (folder / data_name).open("wb") as file:
            for value, tensor in zip(values, tensors, strict=True):
                if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < threshold:
                    if isinstance(tensor, ir.ExternalTensor):  # it must not point at the file that it came from
                        value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
                    continue
                offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
                file.seek(offset)
                _copy(tensor, file)
                value.const_value = ir.ExternalTensor(
                    data_name,
                    offset,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(static_dims(tensor)),
                    name=value.name or "",
                )
                offset += tensor.nbytes
        proto = ir.serde.serialize_model(model)
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor
    if proto.ByteSize() > PROTO_LIMIT_BYTES:
        msg = f"{name}: the model without its weights is over 2 GB, which ONNX can't hold"
        raise ModelError(msg, hint="large constants inside nodes must become initialisers first")
    (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    if not offset:
        (folder / data_name).unlink()
    return offset > 0


def _copy(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Append a tensor's bytes, from the map of its own file without a copy in memory where it has one."""
    if isinstance(tensor, (ir.ExternalTensor, ir.Tensor)):
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
    file.flush()


def _initializers(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                yield value.const_value


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    nodes = [*model.graph.all_nodes(), *(n for function in model.functions.values() for n in function.all_nodes())]
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()
            elif attribute.type == ir.AttributeType.TENSORS:
                yield from attribute.as_tensors()
