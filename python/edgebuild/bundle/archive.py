"""The archive form: a strict subset of ustar whose bytes are fully determined by the files in it.

The reader renders each header anew from what it read and compares, so that there is one description of a header, and whatever the
writer would not write is refused.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from edgebuild.bundle.manifest import FileEntry
from edgebuild.bundle.paths import RESERVED, is_path, is_segment
from edgebuild.bundle.validate import MAX_FILES
from edgebuild.errors import BundleError, ResourceError, UsageError

BLOCK = 512
MAX_FILE_BYTES = 8**11 - 1
_CHUNK = 1 << 20
_END = bytes(2 * BLOCK)
_FIELDS = (
    ("name", 0, 100),
    ("mode", 100, 108),
    ("uid", 108, 116),
    ("gid", 116, 124),
    ("size", 124, 136),
    ("mtime", 136, 148),
    ("chksum", 148, 156),
    ("typeflag", 156, 157),
    ("linkname", 157, 257),
    ("magic", 257, 263),
    ("version", 263, 265),
    ("uname", 265, 297),
    ("gname", 297, 329),
    ("devmajor", 329, 337),
    ("devminor", 337, 345),
    ("prefix", 345, 500),
    ("padding", 500, 512),
)
_OCTAL = re.compile(rb"[0-7]{11}\0")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to be put into an archive: its path in the bundle, what it must hold, and how to open its bytes."""

    path: str
    entry: FileEntry
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside an archive; ``offset`` is where its data begins, in bytes."""

    offset: int
    size: int
    executable: bool


@dataclass(frozen=True, kw_only=True)
class ArchiveIndex:
    """An archive's top folder and its members by their path below it."""

    top: str
    members: Mapping[str, Member]


def source_date_epoch() -> int:
    """The time that goes into headers: SOURCE_DATE_EPOCH in seconds, else 0.

    Raises:
        UsageError: The variable is set to something else than a number that a header can hold.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 11) or int(text) > MAX_FILE_BYTES:
        message = f"SOURCE_DATE_EPOCH: expected seconds since 1970 as a number up to {MAX_FILE_BYTES}, got {text!r}"
        raise UsageError(message)
    return int(text)


def render_header(path: str, size: int, *, executable: bool, mtime: int) -> bytes | None:
    """The 512 bytes of a header; None if a header can't express ``path`` or ``size``. ``path`` begins with the top folder."""
    name, prefix = path.encode("ascii"), b""
    if len(name) > 100:
        # The last slash with at most 155 bytes before it; what follows it must fit as well.
        cut = name.rfind(b"/", 0, 156)
        if cut < 0 or len(name) - cut - 1 > 100:
            return None
        prefix, name = name[:cut], name[cut + 1 :]
    if not 0 <= size <= MAX_FILE_BYTES:
        return None
    head = b"".join(
        (
            name.ljust(100, b"\0"),
            b"0000755\0" if executable else b"0000644\0",
            b"0000000\0" * 2,
            b"%011o\0" % size,
            b"%011o\0" % mtime,
        )
    )
    tail = b"".join(
        (
            b"0",
            bytes(100),
            b"ustar\0" + b"00",
            b"root".ljust(32, b"\0") * 2,
            b"0000000\0" * 2,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    checksum = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % checksum + tail


def write_archive(stream: BinaryIO, top: str, sources: Iterable[Source], *, mtime: int) -> None:
    """Write an archive of ``sources`` below the folder ``top``; the order they come in does not matter.

    Raises:
        UsageError: A path or a file is larger than a header can say, or a source changed since it was hashed.
        OSError: From ``stream`` or a source.
    """
    for source in sorted(sources, key=lambda source: source.path):
        header = render_header(
            f"{top}/{source.path}", source.entry.size, executable=source.entry.executable, mtime=mtime
        )
        if header is None:
            message = f"{top}/{source.path} of {source.entry.size} bytes: too long a path, or 8 GiB and more"
            raise UsageError(message, hint="use a shorter name, or write the bundle as a directory")
        stream.write(header)
        with source.open() as data:
            copy_checked(source.path, data, source.entry, stream)
        stream.write(bytes(-source.entry.size % BLOCK))
    stream.write(_END)


def copy_checked(path: str, source: BinaryIO, entry: FileEntry, target: BinaryIO) -> None:
    """Copy a file of which size and hash are known, and hold the copied bytes to them."""
    digest, left = hashlib.sha256(), entry.size
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        left -= len(chunk)
        target.write(chunk)
    if left != 0 or digest.hexdigest() != entry.sha256:
        message = f"{path}: the source file changed while the bundle was written"
        raise UsageError(message, hint="build again when nothing writes to it")


def read_index(stream: BinaryIO, *, where: str) -> ArchiveIndex:
    """Check the structure of a whole archive to the byte, except the files' data, and find its members.

    Args:
        stream: Seekable; its whole length is the archive.
        where: The archive's name for messages.

    Raises:
        BundleError: Anything but what ``write_archive`` would have written.
        ResourceError: The stream can't be read.
    """
    total = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    top: str | None = None
    mtime = -1
    members: dict[str, Member] = {}
    last = ""
    offset = 0
    while True:
        block = _read(stream, offset, BLOCK, where)
        if not any(block):
            break
        path, size, executable, own_mtime = _parse_header(block, offset, where)
        own_top, _, inner = path.partition("/")
        top, mtime = (own_top, own_mtime) if top is None else (top, mtime)
        if own_top != top or own_mtime != mtime:
            _refuse(where, offset, f"expected the folder {top} and the time {mtime}, got {own_top} and {own_mtime}")
        if not is_segment(own_top) or not is_path(inner):
            _refuse(where, offset, f"{path!r} is not a path that a bundle may hold")
        if path <= last:
            _refuse(where, offset, f"{path} after {last}: expected ascending paths, each once")
        if len(members) >= MAX_FILES + len(RESERVED):
            _refuse(where, offset, f"more than {MAX_FILES} files")
        end = offset + BLOCK + size
        padding = -size % BLOCK
        if end + padding > total:
            _refuse(where, offset, f"{path} ends at byte {end}, but the archive at byte {total}: truncated")
        if padding and any(_read(stream, end, padding, where)):
            _refuse(where, end, f"the padding after {path} is not zero")
        members[inner] = Member(offset=offset + BLOCK, size=size, executable=executable)
        last, offset = path, end + padding
    if top is None or total - offset != len(_END) or any(_read(stream, offset, len(_END), where)):
        _refuse(where, offset, f"expected two blocks of zeros and the end, got {total - offset} bytes")
    return ArchiveIndex(top=top, members=members)


def _parse_header(block: bytes, offset: int, where: str) -> tuple[str, int, bool, int]:
    name, prefix = (block[start:end].partition(b"\0")[0] for start, end in ((0, 100), (345, 500)))
    raw = b"/".join((prefix, name)) if prefix else name
    size, mtime = block[124:136], block[136:148]
    if not raw.isascii() or _OCTAL.fullmatch(size) is None or _OCTAL.fullmatch(mtime) is None:
        _refuse(where, offset, "not the header of a bundle's archive")
    path = raw.decode("ascii")
    executable = block[100:108] == b"0000755\0"
    values = (path, int(size[:11], 8), executable, int(mtime[:11], 8))
    expected = render_header(path, values[1], executable=executable, mtime=values[3])
    if expected is None:
        _refuse(where, offset, f"{path!r} can't be written like this")
    if expected != block:
        field = next(name for name, start, end in _FIELDS if block[start:end] != expected[start:end])
        _refuse(where, offset, f"the header field {field} of {path!r} is not as specified")
    return values


def _read(stream: BinaryIO, offset: int, size: int, where: str) -> bytes:
    try:
        stream.seek(offset)
        data = stream.read(size)
    except OSError as error:
        message = f"{where}: can't be read at byte {offset}: {error.strerror}"
        raise ResourceError(message) from error
    if len(data) != size:
        _refuse(where, offset, f"expected {size} more bytes, got {len(data)}: truncated, or not a bundle")
    return data


def _refuse(where: str, offset: int, what: str) -> NoReturn:
    message = f"{where}: byte {offset}: {what}"
    raise BundleError(message)
