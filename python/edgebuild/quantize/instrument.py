"""An ONNX graph with values inside it as its outputs, so that any engine shows them."""

import errno
import functools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgebuild.errors import InternalError
from edgebuild.graph.io import load_model
from edgebuild.model.signature import DTYPE_BY_NUMBER, DTYPES

MOST_OUTPUTS = 1000
"""What a bundle's signature can hold, with room for a few."""


@dataclass(frozen=True, kw_only=True)
class SourceGraph:
    """A graph as a message without its external data, and what is known of its values.

    Attributes:
        path: The file.
        model: The message; not changed by what is below.
        types: Type of each value of the main graph that has one.
        order: Values that nodes of the main graph make, in the order of the nodes.
        data: Files with external data, relative to the model's folder.
    """

    path: Path
    model: onnx.ModelProto
    types: Mapping[str, onnx.TypeProto]
    order: Sequence[str]
    data: Sequence[Path]

    @functools.cached_property
    def inputs(self) -> dict[str, onnx.TypeProto]:
        """Those that a caller gives."""
        weights = {tensor.name for tensor in self.model.graph.initializer}
        return {value.name: value.type for value in self.model.graph.input if value.name not in weights}

    def dtype(self, name: str) -> int:
        """ONNX's number of a value's element type; float where nothing says it."""
        known = self.types.get(name)
        number = 0 if known is None else known.tensor_type.elem_type
        return int(number) or int(TensorProto.FLOAT)

    def bytes_of(self, name: str, batch: Mapping[str, NDArray[Any]]) -> int | None:
        """Bytes of a value when the graph is run on a batch; None: its shape does not say."""
        known = self.types.get(name)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        symbols = self._symbols(batch)
        sizes = [
            d.dim_value if d.HasField("dim_value") else symbols.get(d.dim_param) for d in known.tensor_type.shape.dim
        ]
        if any(size is None for size in sizes):
            return None
        return prod(size or 0 for size in sizes) * self.element_bytes(name)

    def element_bytes(self, name: str) -> int:
        """Bytes of one element of a value."""
        return max(1, DTYPES[DTYPE_BY_NUMBER[self.dtype(name)]][1] // 8)

    def _symbols(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        return {
            dim.dim_param: size
            for name, kind in self.inputs.items()
            if name in batch
            for dim, size in zip(kind.tensor_type.shape.dim, batch[name].shape, strict=False)
            if dim.dim_param
        }


def read_graph(path: Path, wanted: Iterable[str]) -> SourceGraph:
    """Read a graph. Types of ``wanted`` values that the file does not hold are inferred.

    Raises:
        ModelError: The file can't be read, is no ONNX model, or its external data is missing or outside its folder.
        InternalError: A wanted value is no value of the main graph.
    """
    import onnx_ir as ir

    data = {
        Path(str(value.const_value.location))
        for graph in load_model(path).graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    model = onnx.load(path, load_external_data=False)
    source = _describe(path, model, sorted(data))
    known = {*source.order, *source.inputs}
    for name in wanted:
        if name not in known:
            msg = f"{path.name}: the graph has no value '{name}' to observe"
            raise InternalError(msg)
    if all(name in source.types for name in wanted):
        return source
    inferred = onnx.shape_inference.infer_shapes(model)
    return _describe(path, inferred, sorted(data))


def _describe(path: Path, model: onnx.ModelProto, data: Sequence[Path]) -> SourceGraph:
    graph = model.graph
    types = {
        value.name: value.type
        for values in (graph.value_info, graph.input, graph.output)
        for value in values
        if value.type.tensor_type.elem_type
    }
    order = [name for node in graph.node for name in node.output if name]
    return SourceGraph(path=path, model=model, types=types, order=order, data=data)


def write_exposed(source: SourceGraph, names: Sequence[str], folder: Path) -> Path:
    """Write the graph with just these values as outputs, of open shapes, into ``folder``; returns the file.

    What they don't depend on is left for the engine to drop.
    """
    outputs = [helper.make_tensor_value_info(name, source.dtype(name), None) for name in names]
    return _write(source, [], outputs, folder)


def write_sizes(source: SourceGraph, names: Sequence[str], folder: Path) -> Path:
    """Write the graph with the number of elements of each value as its outputs, in the order of ``names``."""
    taken = {*source.order, *source.inputs, *(tensor.name for tensor in source.model.graph.initializer)}
    results = []
    for index, _ in enumerate(names):
        result = f"size_{index}"
        while result in taken:
            result = f"_{result}"
        results.append(result)
    nodes = [helper.make_node("Size", [name], [result]) for name, result in zip(names, results, strict=True)]
    return _write(source, nodes, [helper.make_tensor_value_info(r, TensorProto.INT64, []) for r in results], folder)


def _write(
    source: SourceGraph, nodes: Sequence[onnx.NodeProto], outputs: Sequence[onnx.ValueInfoProto], folder: Path
) -> Path:
    folder.mkdir(parents=True)
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    path = folder / "graph.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    for name in source.data:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source.path.parent / name, target)
    return path


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system can't."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)
