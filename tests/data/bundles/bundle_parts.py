"""A small sound bundle, and an archive writer that can also write what no bundle may hold.

Made from the words of docs/bundle-format.md alone: nothing here comes from edgebuild, so that it can stand against it.
"""

import copy
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOP = "tiny.x86-64"


@dataclass(frozen=True)
class Entry:
    """One entry of an archive; ``fields`` replaces header fields by raw bytes (the checksum is made after that)."""

    path: str
    data: bytes = b""
    mode: bytes = b"0000644\0"
    fields: Mapping[str, bytes] = field(default_factory=dict)


_FIELDS = (
    ("name", 100),
    ("mode", 8),
    ("uid", 8),
    ("gid", 8),
    ("size", 12),
    ("mtime", 12),
    ("chksum", 8),
    ("typeflag", 1),
    ("linkname", 100),
    ("magic", 6),
    ("version", 2),
    ("uname", 32),
    ("gname", 32),
    ("devmajor", 8),
    ("devminor", 8),
    ("prefix", 155),
    ("padding", 12),
)


def header(entry: Entry) -> bytes:
    name, prefix = entry.path.encode(), b""
    if len(name) > 100:
        cuts = [i for i, c in enumerate(name) if c == ord("/") and i <= 155 and len(name) - i - 1 <= 100]
        prefix, name = name[: cuts[-1]], name[cuts[-1] + 1 :]
    values = {
        "name": name,
        "mode": entry.mode,
        "uid": b"0000000",
        "gid": b"0000000",
        "size": b"%011o" % len(entry.data),
        "mtime": b"00000000000",
        "chksum": b" " * 8,
        "typeflag": b"0",
        "magic": b"ustar",
        "version": b"00",
        "uname": b"root",
        "gname": b"root",
        "devmajor": b"0000000",
        "devminor": b"0000000",
        "prefix": prefix,
    } | dict(entry.fields)
    raw = b"".join(struct.pack(f"{size}s", values.get(key, b"")) for key, size in _FIELDS)
    if "chksum" not in entry.fields:
        raw = raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]
    return raw


def tar(entries: list[Entry], end: bytes = bytes(1024)) -> bytes:
    return b"".join(header(e) + e.data + bytes(-len(e.data) % 512) for e in entries) + end


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FILES: dict[str, bytes] = {
    "bin/edgerun": b"#!/bin/sh\nexit 1\n",
    "golden/0.in.0.bin": struct.pack("<6f", *range(6)),
    "golden/0.in.1.bin": b"\x02\0\0\0\xc3\xa4\0\0\0\0",
    "golden/0.out.0.bin": struct.pack("<2q", -1, 2**40),
    "golden/0.out.1.0.bin": b"\x21\x03",
    "lib/ld.so": b"a loader",
    "lib/libc.so.6": b"a C library",
    "licenses/empty.txt": b"",
    "licenses/engine.txt": b"Do as you like.\n" * 40,
    "model/tiny.data": bytes(range(256)) * 5,
    "model/tiny.onnx": bytes(range(255, -1, -1)) * 4,
}
EXECUTABLE = frozenset(("bin/edgerun", "lib/ld.so"))


def _tensor(dtype: str, shape: list[Any] | None) -> dict[str, Any]:
    return {"kind": "tensor", "dtype": dtype, "shape": shape}


def _golden(dtype: str, shape: list[int], file: str) -> dict[str, Any]:
    return {"kind": "tensor", "dtype": dtype, "shape": shape, "file": file}


_TOLERANCES = {name: {"atol": 1e-5, "rtol": 0} for name in ("sum", "parts", "maybe")}
_VARIANT: dict[str, Any] = {
    "name": "onnxruntime-float32",
    "backend": "onnxruntime",
    "precision": "float32",
    "model": "model/tiny.onnx",
    "data": ["model/tiny.data"],
    "inputs": ["x", None],
    "outputs": ["sum", "parts", "maybe"],
    "engine": {
        "name": "onnxruntime",
        "version": "1.31.1",
        "linkage": "external",
        "library": {"file": "libonnxruntime.so.1", "size": 29400000, "sha256": "ab" * 32},
    },
    "plugin": None,
    "options": {"intra_op_threads": "1"},
    "requires": {"cpu_features": ["avx2"], "glibc": "2.28", "memory_bytes": 1048576, "compute_capability": "8.7"},
    "speed": "measured",
    "tolerances": _TOLERANCES,
    "numerics": {"measured": {"sum": 1e-7}},
}
_MANIFEST: dict[str, Any] = {
    "format": {"major": 1, "minor": 0},
    "name": "tiny",
    "producer": {"edgebuild": "0.1.0", "überpr\u00fcft": "\U0001f600"},
    "target": {"name": "x86-64", "arch": "x86_64", "triple": "x86_64-linux-gnu.2.28"},
    "required_features": [],
    "optional_features": [],
    "signature": {
        "inputs": [
            {"name": "x", "type": _tensor("float32", ["batch", 3]), "layout": "NC"},
            {"name": "words", "type": _tensor("string", None), "layout": None},
        ],
        "outputs": [
            {"name": "sum", "type": _tensor("int64", ["batch"]), "layout": None},
            {"name": "parts", "type": {"kind": "sequence", "element": _tensor("uint4", [3])}, "layout": None},
            {"name": "maybe", "type": {"kind": "optional", "element": _tensor("bfloat16", [None])}, "layout": None},
        ],
        "symbols": {"batch": {"min": 1, "best": 8, "max": None}},
        "output_structure": {
            "dict": [
                ["sum", {"tensor": 0}],
                [7, {"tuple": [{"list": [{"tensor": 1}]}, {"tensor": 2}]}],
                ["k", {"constant": None}],
            ]
        },
    },
    "variants": [_VARIANT, {**_VARIANT, "name": "reference", "backend": "reference", "engine": None, "data": []}],
    "goldens": [
        {
            "inputs": {
                "x": _golden("float32", [2, 3], "golden/0.in.0.bin"),
                "words": _golden("string", [2, 1], "golden/0.in.1.bin"),
            },
            "outputs": {
                "sum": _golden("int64", [2], "golden/0.out.0.bin"),
                "parts": {"kind": "sequence", "items": [_golden("uint4", [3], "golden/0.out.1.0.bin")]},
                "maybe": {"kind": "none"},
            },
        }
    ],
    "preprocessing": None,
    "quantization": None,
    "placement": {"nodes": {"conv1": "cpu"}},
}


def file_entry(data: bytes, *, executable: bool = False) -> dict[str, Any]:
    return {"size": len(data), "sha256": sha256(data), "mode": "0755" if executable else "0644"}


def sound_manifest() -> dict[str, Any]:
    """A fresh copy of the manifest of the sound bundle; change it at will."""
    files = {path: file_entry(data, executable=path in EXECUTABLE) for path, data in FILES.items()}
    return copy.deepcopy(_MANIFEST | {"files": files})


def dump(manifest: Any) -> bytes:
    return json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"


def contents(manifest: bytes | None = None) -> dict[str, bytes]:
    """All files of the sound bundle by path, with another manifest if one is given."""
    manifest = dump(sound_manifest()) if manifest is None else manifest
    return {**FILES, "manifest.json": manifest, "manifest.sha256": f"{sha256(manifest)}\n".encode()}


def entries(files: Mapping[str, bytes] | None = None, top: str = TOP) -> list[Entry]:
    """The archive's entries in order."""
    files = contents() if files is None else files
    return [
        Entry(f"{top}/{path}", files[path], b"0000755\0" if path in EXECUTABLE else b"0000644\0")
        for path in sorted(files)
    ]
