"""Small bundles around ONNX models, made for tests of edgerun and of the Python runner."""

import importlib.util
import platform
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgebuild.bundle.manifest import Engine, Loader, Requirements, Target, Tolerance, Variant
from edgebuild.bundle.reader import GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.model.signature import DTYPES, Signature, TensorType, ValueSpec, ValueType


def engine_library() -> Path:
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return next((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))


def make_model(
    nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], initializers: Sequence[Any] = ()
) -> bytes:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tensor_info(name: str, dtype: str, shape: Sequence[int | str | None]) -> Any:
    return helper.make_tensor_value_info(name, DTYPES[dtype][0], list(shape))


def spec(name: str, dtype: str, shape: Sequence[int | str | None] | None) -> ValueSpec:
    return ValueSpec(name=name, type=TensorType(dtype=dtype, shape=None if shape is None else tuple(shape)))


def of_type(name: str, kind: ValueType) -> ValueSpec:
    return ValueSpec(name=name, type=kind)


def make_bundle(
    path: Path,
    model: bytes,
    signature: Signature,
    *,
    goldens: Sequence[GoldenArrays] = (),
    atol: float = 1e-5,
    options: Mapping[str, str] | None = None,
    variants: Sequence[tuple[str, Requirements]] = (("float32", Requirements()),),
    directory: bool = True,
    files: Sequence[BundleFile] = (),
    preprocessing: Mapping[str, Any] | None = None,
    models: Mapping[str, str] | None = None,
    loader: Loader | None = None,
    needed: Sequence[str] = (),
) -> Path:
    """A bundle of this machine's architecture whose variants run ``model``, or the file that ``models`` names, on the bundled ONNX Runtime."""
    machine = platform.machine()
    library = engine_library()
    write_bundle(
        path,
        name="m",
        target=Target(name="test", arch=machine, triple=f"{machine}-linux-gnu", loader=loader),
        signature=signature,
        variants=[
            Variant(
                name=name,
                backend="onnxruntime",
                precision="float32",
                model=(models or {}).get(name, "model/m.onnx"),
                inputs=tuple(item.name for item in signature.inputs),
                outputs=tuple(item.name for item in signature.outputs),
                tolerances={item.name: Tolerance(atol=atol, rtol=0.0) for item in signature.outputs},
                engine=Engine(
                    name="onnxruntime", version="1.31.1", library="lib/libonnxruntime.so.1", needed=tuple(needed)
                ),
                options={"intra_op_threads": "1", **(options or {})},
                requires=requires,
            )
            for name, requires in variants
        ],
        files=[
            *([] if models else [BundleFile(path="model/m.onnx", source=model)]),
            BundleFile(path="lib/libonnxruntime.so.1", source=library),
            *files,
        ],
        goldens=goldens,
        directory=directory,
        preprocessing=preprocessing,
    )
    return path


def identity(path: Path, dtype: str, shape: Sequence[int | str | None], **keywords: Any) -> Path:
    """Gives back its input ``x`` as ``y``."""
    # ONNX Runtime has no Identity for types below a byte; a transposed vector is one too.
    operator = "Transpose" if 0 < DTYPES[dtype][1] < 8 else "Identity"
    model = make_model(
        [helper.make_node(operator, ["x"], ["y"])], [tensor_info("x", dtype, shape)], [tensor_info("y", dtype, shape)]
    )
    signature = Signature(
        inputs=(spec("x", dtype, shape),), outputs=(spec("y", dtype, shape),), output_structure={"tensor": 0}
    )
    return make_bundle(path, model, signature, **keywords)


def affine(path: Path, *, wrong_golden: bool = False, **keywords: Any) -> Path:
    """``y = a @ w + b`` and ``total = sum(y)`` of ``a (batch, 3)`` and ``b (4,)``, with one golden."""
    weights = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    model = make_model(
        [
            helper.make_node("MatMul", ["a", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["y"], name="add"),
            helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
        ],
        [tensor_info("a", "float32", ["batch", 3]), tensor_info("b", "float32", [4])],
        [tensor_info("y", "float32", ["batch", 4]), tensor_info("total", "float32", [])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    signature = Signature(
        inputs=(spec("a", "float32", ["batch", 3]), spec("b", "float32", [4])),
        outputs=(spec("y", "float32", ["batch", 4]), spec("total", "float32", [])),
        output_structure={"dict": [["y", {"tensor": 0}], ["rest", {"tuple": [{"tensor": 1}, {"constant": None}]}]]},
    )
    inputs = affine_inputs(2)
    outputs = affine_reference(inputs)
    if wrong_golden:
        outputs["y"][1, 2] += 0.5
    return make_bundle(path, model, signature, goldens=[GoldenArrays(inputs=inputs, outputs=outputs)], **keywords)


def affine_inputs(batch: int, seed: int = 7) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "a": random.standard_normal((batch, 3), dtype=np.float32),
        "b": random.standard_normal(4, dtype=np.float32),
    }


def affine_reference(inputs: Mapping[str, Any]) -> dict[str, Any]:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
    y = inputs["a"] @ weights + inputs["b"]
    return {"y": y, "total": y.sum(dtype=np.float32)}


def lookup(path: Path, dtype: str, *, computed: bool = False) -> Path:
    """Rows of a table of 7, at the places ``ids (n, 3)``, or with ``computed`` at ``ids`` + 1."""
    table = np.arange(14, dtype=np.float32).reshape(7, 2)
    one = onnx.numpy_helper.from_array(np.array(1, np.dtype(dtype)), "one")
    nodes = [helper.make_node("Add", ["ids", "one"], ["next"])] if computed else []
    nodes.append(helper.make_node("Gather", ["table", "next" if computed else "ids"], ["y"], name="words"))
    model = make_model(
        nodes,
        [tensor_info("ids", dtype, ["n", 3])],
        [tensor_info("y", "float32", ["n", 3, 2])],
        [onnx.numpy_helper.from_array(table, "table"), *([one] if computed else [])],
    )
    signature = Signature(
        inputs=(spec("ids", dtype, ["n", 3]),),
        outputs=(spec("y", "float32", ["n", 3, 2]),),
        output_structure={"tensor": 0},
    )
    return make_bundle(path, model, signature)


def endless(path: Path) -> Path:
    """A loop that never ends; ``x`` is its condition, so nothing is folded at load."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["v", "v"], ["v2"])],
        "body",
        [
            tensor_info("i", "int64", []),
            tensor_info("c", "bool", []),
            tensor_info("v", "float32", []),
        ],
        [tensor_info("c2", "bool", []), tensor_info("v2", "float32", [])],
    )
    model = make_model(
        [helper.make_node("Loop", ["", "x", "start"], ["y"], body=body)],
        [tensor_info("x", "bool", [])],
        [tensor_info("y", "float32", [])],
        [helper.make_tensor("start", TensorProto.FLOAT, [], [1.0])],
    )
    signature = Signature(
        inputs=(spec("x", "bool", []),), outputs=(spec("y", "float32", []),), output_structure={"tensor": 0}
    )
    return make_bundle(path, model, signature)


def raw_strings(texts: Sequence[str]) -> bytes:
    return b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
