"""Strips native libraries: keeps what a loader reads, drops symbol tables and debug data. Needs no tool, and gives the same bytes everywhere."""

import shutil
import struct
from pathlib import Path
from typing import BinaryIO

from edgebuild.native.elf import ElfError

_HEADERS = {1: ("<IIIIIIII", 0x1C, 0x2A, 0x20, 0x2E, 4, 16), 2: ("<IIQQQQQQ", 0x20, 0x36, 0x28, 0x3A, 8, 32)}
"""By ELF class: a program header, and where in the file header e_phoff, e_phentsize, e_shoff and e_shentsize lie, the width of an
address, and where in a program header p_filesz lies. System V gABI, chapter 4."""


def copy_stripped(source: Path, target: Path) -> None:
    """Copies a library without its section headers and without what lies behind its last segment.

    Loaders follow program headers alone, so nothing that runs changes. What a linker writes for debuggers lies at the end.

    Raises:
        ElfError: It is no little-endian ELF file.
    """
    with source.open("rb") as stream, target.open("wb") as sink:
        head = bytearray(stream.read(64))
        if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in _HEADERS or head[5] != 1:
            msg = "no little-endian ELF file"
            raise ElfError(msg)
        _, phoff_at, phsize_at, shoff_at, shsize_at, width, filesz_at = _HEADERS[head[4]]
        address = "<Q" if width == 8 else "<I"
        (table,) = struct.unpack_from(address, head, phoff_at)
        size, count = struct.unpack_from("<HH", head, phsize_at)
        stream.seek(table)
        headers = stream.read(size * count)
        if size < filesz_at + width or len(headers) < size * count:
            msg = "its program headers are cut off"
            raise ElfError(msg)
        end = table + size * count
        for index in range(count):
            (offset,) = struct.unpack_from(address, headers, index * size + (8 if width == 8 else 4))
            (length,) = struct.unpack_from(address, headers, index * size + filesz_at)
            end = max(end, offset + length)
        struct.pack_into(address, head, shoff_at, 0)
        struct.pack_into("<HHH", head, shsize_at, 0, 0, 0)
        sink.write(head)
        stream.seek(len(head))
        _copy(stream, sink, end - len(head))
    shutil.copymode(source, target)


def _copy(stream: BinaryIO, sink: BinaryIO, count: int) -> None:
    while count > 0:
        chunk = stream.read(min(count, 1 << 20))
        if not chunk:
            msg = "it ends before its last segment does"
            raise ElfError(msg)
        sink.write(chunk)
        count -= len(chunk)
