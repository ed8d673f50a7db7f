"""A minimal reader of the protobuf wire format, enough to tell an ONNX model from other bytes and find what it lacks."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class OnnxScan:
    """Whether a file is an ONNX ModelProto; ``problem``: why it is one but can't be whole."""

    is_model: bool
    ir_version: int = 0
    problem: str | None = None


def scan_onnx(path: Path) -> OnnxScan:
    """Walks the top-level fields of a file, without parsing what they hold."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ir_version = 0
        seen: set[int] = set()
        problem = None
        try:
            for number, kind, value, _ in fields(data, 0, len(data)):
                if _MODEL_FIELDS.get(number) != kind:
                    if seen >= {1, 7}:
                        problem = f"unknown field {number} at its top level"
                        break
                    return OnnxScan(is_model=False)
                seen.add(number)
                if number == 1:
                    ir_version = value
        except ValueError as error:
            problem = str(error)
        plausible = 1 <= ir_version <= 100
        if not plausible:
            return OnnxScan(is_model=False)
        if problem is None and 7 not in seen:
            if not seen & {2, 8}:
                return OnnxScan(is_model=False)
            problem = "it has no graph"
        if problem is not None and not seen & {2, 7, 8}:
            # the first fields of ONNX files are the IR version and the producer or the graph
            return OnnxScan(is_model=_cut_in_graph(data), ir_version=ir_version, problem=problem)
        return OnnxScan(is_model=True, ir_version=ir_version, problem=problem)


def _cut_in_graph(data: mmap.mmap) -> bool:
    return len(data) > 4 and data[0] == 0x08 and data[2] in (0x12, 0x3A, 0x42)


def fields(data: "mmap.mmap | bytes", start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields ``(number, wire type, value or offset, length)`` of the fields between two offsets.

    Raises:
        ValueError: A field reaches beyond the end, or has an unknown wire type.
    """
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            msg = f"field number 0 at byte {at}"
            raise ValueError(msg)
        if kind == _VARINT:
            value, at = _varint(data, at, end)
            yield number, kind, value, 0
            continue
        if kind == _BYTES:
            length, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            msg = f"wire type {kind} at byte {at}"
            raise ValueError(msg)
        if at + length > end:
            msg = f"truncated: a field of {length} bytes at byte {at}, but the file ends at {end}"
            raise ValueError(msg)
        yield number, kind, at, length
        at += length


def _varint(data: "mmap.mmap | bytes", at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            msg = f"truncated in a number at byte {at}"
            raise ValueError(msg)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    msg = f"a number that is too long at byte {at}"
    raise ValueError(msg)
