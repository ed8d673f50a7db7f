"""How ``everything.x86-64.edge`` was made. It is frozen: never made anew, so that format 1 stays readable.

Its model file is no model: only the format is at stake. The values of its golden follow from ``expected_bits``.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.bundle.manifest import Engine, ExternalLibrary, Requirements, Target, Tolerance, Variant
from edgebuild.bundle.reader import GoldenArrays
from edgebuild.bundle.values import decode
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.model.signature import DTYPES, ContainerType, Signature, SymbolRange, TensorType, ValueSpec

SHAPE = (2, 3)


def expected_bits(dtype: str) -> bytes:
    """The golden file of a dtype: six elements, from the SHA-256 of its name; what is left of a last byte is zero."""
    if dtype == "string":
        return b"".join(
            len(text).to_bytes(4, "little") + text for text in (b"", b"a", "ä€😀".encode(), b"b\0c", b"", b" ")
        )
    bits = np.unpackbits(np.frombuffer(hashlib.sha512(dtype.encode()).digest() * 2, np.uint8), bitorder="little")
    if dtype == "bool":
        return bytes(bits[:6].tolist())
    return np.packbits(bits[: 6 * DTYPES[dtype][1]], bitorder="little").tobytes()


def main(output: Path) -> None:
    def tensor(dtype: str) -> Any:
        return decode(expected_bits(dtype), dtype, SHAPE)

    inputs = tuple(ValueSpec(name=dtype, type=TensorType(dtype=dtype, shape=("n", 3)), layout=None) for dtype in DTYPES)
    some = TensorType(dtype="int64", shape=None)
    outputs = (
        *(ValueSpec(name=dtype, type=TensorType(dtype=dtype, shape=(None, 3)), layout="NC") for dtype in DTYPES),
        ValueSpec(name="parts", type=ContainerType(kind="sequence", element=some)),
        ValueSpec(name="nothing", type=ContainerType(kind="optional", element=some)),
    )
    values = {dtype: tensor(dtype) for dtype in DTYPES}
    parts = [np.array(7), np.zeros((0, 2), np.int64)]
    external = ExternalLibrary(file="libengine.so.1", size=1234, sha256="ab" * 32)
    common: dict[str, Any] = {
        "precision": "float32",
        "inputs": tuple(f"in/{spec.name}" if spec.name != "bool" else None for spec in inputs),
        "outputs": tuple(f"out/{spec.name}" for spec in outputs),
        "tolerances": {spec.name: Tolerance(atol=1e-5, rtol=2.5e-4) for spec in outputs},
    }
    variants = [
        Variant(
            name="onnxruntime-float32",
            backend="onnxruntime",
            model="model/m.onnx",
            data=("model/m.onnx.data",),
            engine=Engine(name="onnxruntime", version="1.31.1", library=external),
            options={"intra_op_threads": "2"},
            requires=Requirements(cpu_features=("avx2", "fma"), glibc="2.28", memory_bytes=1 << 20),
            speed="measured",
            numerics={"measured": {"float32": 1.5e-7}},
            **common,
        ),
        Variant(
            name="other",
            backend="reference",
            model="model/m.onnx",
            engine=Engine(name="e", version="1", library="lib/libe.so"),
            plugin="lib/libe.so",
            requires=Requirements(compute_capability="8.7"),
            **common,
        ),
    ]
    write_bundle(
        output,
        name="everything",
        target=Target(name="x86-64", arch="x86_64", triple="x86_64-linux-gnu.2.28"),
        signature=Signature(
            inputs=inputs,
            outputs=outputs,
            symbols={"n": SymbolRange(minimum=1, best=2, maximum=32)},
            output_structure={
                "dict": [
                    ["all", {"tuple": [{"tensor": i} for i in range(len(outputs))]}],
                    ["k", {"constant": 0.5}],
                    [3, {"list": []}],
                ]
            },
        ),
        variants=variants,
        files=[
            BundleFile(path="model/m.onnx", source=bytes(range(256))),
            BundleFile(path="model/m.onnx.data", source=b""),
            BundleFile(path="lib/libe.so", source=b"\x7fELF", executable=True),
            BundleFile(path="lib/" + "a" * 60 + "/" + "b" * 60, source=b"a path that has to be split"),
            BundleFile(path="licenses/engine.txt", source="Für alle.\n".encode()),
        ],
        goldens=[GoldenArrays(inputs=values, outputs={**values, "parts": parts, "nothing": None})],
        producer={"edgebuild": "0.1.0", "prüfer": "😀"},
        optional_features=["sparkle"],
        quantization={"method": "none", "ranges": [[-1.5, 2]]},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
