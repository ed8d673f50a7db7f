"""Any ONNX file through the C++ runner, without a build: a thin bundle in a staging folder that lives as long as it is open."""

import functools
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import onnx
import onnx_ir as ir

from edgebuild.bundle.manifest import Engine, ExternalLibrary, Target, Tolerance, Variant
from edgebuild.bundle.paths import is_segment
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import Cache, file_sha256
from edgebuild.devices.unordered import without_reorders
from edgebuild.errors import ModelError
from edgebuild.graph.io import load_model, save_model
from edgebuild.machine import machine_arch
from edgebuild.model.signature import (
    DTYPE_BY_NUMBER,
    ContainerType,
    Dim,
    Signature,
    TensorType,
    ValueSpec,
    ValueType,
)
from edgebuild.runtime import Runner

_MODEL = "model/model.onnx"


@contextmanager
def open_graph(
    path: Path,
    *,
    engine: Path,
    version: str | None = None,
    options: Mapping[str, str] | None = None,
    unordered: Collection[str] = (),
    cache: Cache | None = None,
) -> Iterator[Runner]:
    """Open an ONNX file as a GraphRunner (``edgebuild.quantize.running``), optimised by the engine, on one thread.

    Args:
        path: The model; external data lies in its folder. It may change or go once this is open.
        engine: ONNX Runtime's library.
        version: Its version; None: that of the installed package.
        options: Engine options on top of ``graph_optimization: all`` and ``intra_op_threads: 1``.
        unordered: Outputs whose elements may come in any order (of the same rank), if that is cheaper.
        cache: Where to put the bundle; by default the user's cache. Nothing is left there, also after Ctrl-C.

    Raises:
        ModelError: The file is no ONNX model, its data is missing, or a type of its inputs or outputs has no form in a bundle.
        IncompatibleError: The engine can't load it.
        ResourceError: The disk is full, or the cache can't be written.
    """
    folder = (cache or Cache.default()).staging_folder()
    try:
        model, sources = _with_data(path, folder)
        options = dict(options or {})
        if unordered and "graph_optimization" not in options:
            weights = sum(file.source.stat().st_size for file in sources if isinstance(file.source, Path))
            optimised = without_reorders(model, path, weights, unordered, folder)
            if optimised is not None:
                model, sources = optimised, []
                options["graph_optimization"] = "disable"
            del optimised
        bundle = write_scratch_bundle(model, folder, engine=engine, version=version, options=options, data=sources)
        del model  # the runner maps the file
        with Runner(bundle.path, runtime_path=str(engine.parent), state_dir=folder / "state") as runner:
            yield runner
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_scratch_bundle(
    model: onnx.ModelProto,
    folder: Path,
    *,
    engine: Path,
    version: str | None = None,
    options: Mapping[str, str],
    data: Sequence[BundleFile] = (),
    arch: str | None = None,
) -> Bundle:
    """Write a model as a bundle directory in ``folder`` that takes the engine from the runtime path. Raises as ``open_graph``.

    ``arch`` is that of ``engine``; None: this machine's.
    """
    try:
        inputs = tuple(ValueSpec(name=i.name, type=value_type(i.type)) for i in graph_inputs(model))
        outputs = tuple(ValueSpec(name=o.name, type=value_type(o.type)) for o in model.graph.output)
    except ValueError as error:
        msg = f"the graph can't be run: {error}"
        raise ModelError(msg) from error
    arch = arch or machine_arch()
    variant = Variant(
        name="onnxruntime",
        backend="onnxruntime",
        precision="mixed",
        model=_MODEL,
        data=tuple(file.path for file in data),
        inputs=tuple(spec.name for spec in inputs),
        outputs=tuple(spec.name for spec in outputs),
        tolerances={spec.name: Tolerance() for spec in outputs},
        engine=Engine(
            name="onnxruntime",
            version=version or metadata.version("onnxruntime"),
            library=ExternalLibrary(file=engine.name, size=engine.stat().st_size, sha256=_engine_hash(engine)),
        ),
        options={"graph_optimization": "all", "intra_op_threads": "1", **options},
    )
    return write_bundle(
        folder / "graph.scratch",
        name="graph",
        target=Target(name="scratch", arch=arch, triple=f"{arch}-linux-gnu"),
        signature=Signature(
            inputs=inputs, outputs=outputs, output_structure={"tuple": [{"tensor": i} for i in range(len(outputs))]}
        ),
        variants=[variant],
        files=[BundleFile(path=_MODEL, source=model.SerializeToString(deterministic=True)), *data],
        directory=True,
    )


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Inputs that a caller has to give: old models list their weights among them."""
    weights = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in weights]


def value_type(kind: onnx.TypeProto) -> ValueType:
    """An ONNX type as ours. Raises ValueError for maps, sparse and untyped tensors, which the plugin ABI has no form for."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        tensor = kind.tensor_type
        shape: tuple[Dim, ...] | None = None
        if tensor.HasField("shape"):
            # Names of axes are not always consistent with the data: sizes are left open instead.
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        if tensor.elem_type not in DTYPE_BY_NUMBER:
            msg = f"element type {tensor.elem_type} is unknown"
            raise ValueError(msg)
        return TensorType(dtype=DTYPE_BY_NUMBER[tensor.elem_type], shape=shape)
    if which == "sequence_type":
        return ContainerType(kind="sequence", element=value_type(kind.sequence_type.elem_type))
    if which == "optional_type":
        return ContainerType(kind="optional", element=value_type(kind.optional_type.elem_type))
    msg = f"no form for {which} in the plugin ABI"
    raise ValueError(msg)


def _with_data(path: Path, folder: Path) -> tuple[onnx.ModelProto, list[BundleFile]]:
    """The model's message, and its external data as files of a bundle."""
    loaded = load_model(path)  # checks that the data is there and inside the folder
    names = {
        str(value.const_value.location)
        for graph in loaded.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    if not all(is_segment(name) and name != Path(_MODEL).name for name in names):
        save_model(loaded, folder / "model.onnx")
        path, names = folder / "model.onnx", {"model.onnx.data"}
    del loaded
    model = onnx.load(path, load_external_data=False)
    return model, [BundleFile(path=f"model/{name}", source=path.parent / name) for name in sorted(names)]


def _engine_hash(library: Path) -> str:
    status = library.stat()
    return _hash_of(library, status.st_size, status.st_mtime_ns)


@functools.cache
def _hash_of(library: Path, size: int, changed_ns: int) -> str:
    return file_sha256(library)
