"""Writes the same small bundle from wherever it is run: ``python bundle_recipe.py OUT [reversed] [directory]``."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.bundle.manifest import Requirements, Target, Tolerance, Variant
from edgebuild.bundle.reader import Bundle, GoldenArrays
from edgebuild.bundle.writer import BundleFile, write_bundle
from edgebuild.model.signature import ContainerType, Signature, SymbolRange, TensorType, ValueSpec


def recipe(*, backwards: bool = False) -> dict[str, Any]:
    """Keyword arguments for ``write_bundle``; ``backwards`` turns the order of every mapping and set round."""

    def mapping(items: dict[str, Any]) -> dict[str, Any]:
        return dict(reversed(items.items())) if backwards else items

    inputs = (
        ValueSpec(name="größe", type=TensorType(dtype="float32", shape=("n", 3)), layout="NC"),
        ValueSpec(name="words", type=TensorType(dtype="string", shape=None)),
    )
    outputs = (
        ValueSpec(name="half", type=TensorType(dtype="bfloat16", shape=("n",))),
        ValueSpec(name="bits", type=TensorType(dtype="int4", shape=(3,))),
        ValueSpec(name="parts", type=ContainerType(kind="sequence", element=TensorType(dtype="int64", shape=(None,)))),
        ValueSpec(name="maybe", type=ContainerType(kind="optional", element=TensorType(dtype="bool", shape=()))),
    )
    rng = np.random.default_rng(4)
    goldens = [
        GoldenArrays(
            inputs=mapping(
                {"größe": rng.standard_normal((2, 3)).astype(np.float32), "words": np.array(["ä", ""], dtype=object)}
            ),
            outputs=mapping(
                {
                    "half": np.array([0x3F80, 0x4000], np.uint16),
                    "bits": np.array([-8, 7, -1], np.int8),
                    "parts": [np.arange(3), np.arange(0)],
                    "maybe": maybe,
                }
            ),
        )
        for maybe in (None, np.array(True))
    ]
    variant = Variant(
        name="reference-float32",
        backend="reference",
        precision="float32",
        model="model/a.bin",
        data=("model/b.bin",),
        inputs=("x", None),
        outputs=("0", "1", "2", "3"),
        tolerances=mapping({spec.name: Tolerance(atol=1e-5, rtol=1e-4) for spec in outputs}),
        options=mapping({"a": "1", "b": "2"}),
        requires=Requirements(glibc="2.28", cpu_features=("avx2",)),
    )
    files = [
        BundleFile(path="model/a.bin", source=b"model"),
        BundleFile(path="model/b.bin", source=bytes(3_000_000)),
        BundleFile(path="bin/edgerun", source=b"#!/bin/sh\n", executable=True),
        BundleFile(path="licenses/x.txt", source="Für alle\n".encode()),
    ]
    return {
        "name": "tiny",
        "target": Target(name="x86-64", arch="x86_64", triple="x86_64-linux-gnu.2.28"),
        "signature": Signature(
            inputs=inputs,
            outputs=outputs,
            symbols=mapping(
                {"n": SymbolRange(minimum=1, best=2, maximum=None), "m": SymbolRange(minimum=0, best=0, maximum=0)}
            ),
            output_structure={"tuple": [{"tensor": index} for index in range(4)]},
        ),
        "variants": [variant],
        "files": files[::-1] if backwards else files,
        "goldens": goldens,
        "producer": mapping({"edgebuild": "0.1.0", "numpy": "2"}),
    }


def write(output: Path, *, backwards: bool = False, directory: bool = False) -> Bundle:
    return write_bundle(output, directory=directory, **recipe(backwards=backwards))


if __name__ == "__main__":
    write(Path(sys.argv[1]), backwards="reversed" in sys.argv, directory="directory" in sys.argv)
