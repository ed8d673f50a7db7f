"""Any ONNX model as a thin bundle in its directory form: no export, no optimisation, just the model and its signature."""

from pathlib import Path

import onnx

from edgebuild.bundle.manifest import Engine, ExternalLibrary, Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.cache import file_sha256
from edgebuild.model.signature import (
    DTYPE_BY_NUMBER,
    ContainerType,
    Dim,
    Signature,
    TensorType,
    ValueSpec,
    ValueType,
)

from .cases import Case, graph_inputs


def value_type(kind: onnx.TypeProto) -> ValueType:
    """An ONNX type as ours. Raises ValueError for maps and sparse tensors, which the plugin ABI has no form for."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        tensor = kind.tensor_type
        shape: tuple[Dim, ...] | None = None
        if tensor.HasField("shape"):
            # Names of axes in the suite are not always consistent with its data: sizes are left open instead.
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        return TensorType(dtype=DTYPE_BY_NUMBER[tensor.elem_type], shape=shape)
    if which == "sequence_type":
        return ContainerType(kind="sequence", element=value_type(kind.sequence_type.elem_type))
    if which == "optional_type":
        return ContainerType(kind="optional", element=value_type(kind.optional_type.elem_type))
    msg = f"no form for {which} in the plugin ABI"
    raise ValueError(msg)


def write_thin_bundle(case: Case, library: Path, folder: Path) -> Bundle:
    """The case as a bundle directory in ``folder`` that takes the engine from the runtime path."""
    inputs = tuple(ValueSpec(name=i.name, type=value_type(i.type)) for i in graph_inputs(case.model))
    outputs = tuple(ValueSpec(name=o.name, type=value_type(o.type)) for o in case.model.graph.output)
    external = ExternalLibrary(file=library.name, size=library.stat().st_size, sha256=_engine_hash(library))
    variant = Variant(
        name="onnxruntime",
        backend="onnxruntime",
        precision="mixed",
        model="model/model.onnx",
        inputs=tuple(spec.name for spec in inputs),
        outputs=tuple(spec.name for spec in outputs),
        tolerances={spec.name: Tolerance(atol=case.atol, rtol=case.rtol) for spec in outputs},
        engine=Engine(name="onnxruntime", version="1.31.1", library=external),
        options={"graph_optimization": "all", "intra_op_threads": "1"},
    )
    return write_bundle(
        folder / "case.conformance",
        name="case",
        target=Target(name="conformance", arch="x86_64", triple="x86_64-linux-gnu"),
        signature=Signature(
            inputs=inputs, outputs=outputs, output_structure={"tuple": [{"tensor": i} for i in range(len(outputs))]}
        ),
        variants=[variant],
        files=[BundleFile(path="model/model.onnx", source=case.model.SerializeToString(deterministic=True))],
        directory=True,
    )


_hashes: dict[Path, str] = {}


def _engine_hash(library: Path) -> str:
    if library not in _hashes:
        _hashes[library] = file_sha256(library)
    return _hashes[library]
