"""Unpacks a Debian package file without dpkg and without root: an ar archive that holds a compressed tar.

Format: deb(5). What comes out are files, folders and links that stay inside the folder; a package that wants anything else
(absolute names, ``..``, links that lead out, devices, more bytes than the limit) is refused.
"""

import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Protocol, cast

from edgebuild.errors import ToolError

UNPACKED_LIMIT_BYTES = 4 * 2**30
_XZ_MEMORY_LIMIT_BYTES = 512 * 2**20
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_CHUNK_BYTES = 2**20


class _Damaged(Exception):
    """What is wrong with a package, in the words of the error."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def unpack_deb(
    deb: Path, folder: Path, *, members: Sequence[str] = ("*",), limit_bytes: int = UNPACKED_LIMIT_BYTES
) -> None:
    """Unpacks the files of a package.

    Files are readable by all and executable where the package says so; owners, set-user-id bits and times are not kept.

    Args:
        deb: The package file.
        folder: An existing folder, empty but for what the caller put there under names that the package lacks.
        members: Shell patterns on paths such as ``usr/lib/libz.so.1``; ``*`` matches slashes too. Others are left out.
        limit_bytes: Of all that the package unpacks to, left out or not.

    Raises:
        ToolError: The file is no Debian package, is cut or damaged, wants to write outside the folder, is too large, or
            has no file for one of the patterns.
    """
    try:
        with deb.open("rb") as stream:
            name, data = _data_member(stream)
            wanted = _Unpacker(folder, members, limit_bytes)
            content = cast(IO[bytes], _Bounded(_decompressed(name, data), limit_bytes))
            with tarfile.open(fileobj=content, mode="r|") as archive:
                for member in archive:
                    wanted.take(archive, member)
            wanted.finish()
    except (_Damaged, tarfile.TarError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError, ValueError) as error:
        msg = f"{deb.name.removeprefix('.')} can't be unpacked as a Debian package: {error or type(error).__name__}"
        raise ToolError(msg) from error


def _data_member(stream: IO[bytes]) -> tuple[str, "_Section"]:
    """The name of the member that holds the files, and its bytes."""
    size = os.fstat(stream.fileno()).st_size
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        msg = "it does not begin like an ar archive"
        raise _Damaged(msg)
    first = True
    while header := stream.read(_AR_HEADER_BYTES):
        if len(header) != _AR_HEADER_BYTES or header[58:] != b"`\n":
            msg = "it is cut, or a header in it is damaged"
            raise _Damaged(msg)
        name = header[:16].decode("ascii", "replace").rstrip(" ").removesuffix("/")
        digits = header[48:58].decode("ascii", "replace").rstrip(" ")
        begin = stream.tell()
        if not (digits.isascii() and digits.isdigit()) or begin + int(digits) > size:
            msg = f"member {name!r} claims {digits!r} bytes, {size - begin} are left"
            raise _Damaged(msg)
        length = int(digits)
        if first and (name != "debian-binary" or not stream.read(length).startswith(b"2.")):
            msg = f"its first member is {name!r}, expected 'debian-binary' of format 2"
            raise _Damaged(msg)
        if name.startswith("data.tar"):
            stream.seek(begin)
            return name, _Section(stream, length)
        first = False
        stream.seek(begin + length + length % 2)
    msg = "it has no member data.tar"
    raise _Damaged(msg)


class _Section:
    """The next ``length`` bytes of a stream, as a stream."""

    def __init__(self, stream: IO[bytes], length: int) -> None:
        self._stream = stream
        self._left = length

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class _XzStream:
    """Decompresses xz with a bound on memory, which ``lzma.LZMAFile`` does not offer."""

    def __init__(self, source: _Section) -> None:
        self._source = source
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT_BYTES)

    def read(self, size: int = -1, /) -> bytes:
        data = b""
        while not data and not self._decompressor.eof:
            more = self._source.read(_CHUNK_BYTES) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not more:
                msg = "its compressed data is cut"
                raise _Damaged(msg)
            data = self._decompressor.decompress(more, size)
        return data


class _Bounded:
    """Gives out at most ``limit`` bytes in all; tarfile reads to its end what it skips, so this bounds every member."""

    def __init__(self, source: _Readable, limit: int) -> None:
        self._source = source
        self._left = limit
        self._limit = limit

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            msg = f"it unpacks to more than {self._limit} bytes"
            raise _Damaged(msg)
        return data


def _decompressed(name: str, data: _Section) -> _Readable:
    match name.removeprefix("data.tar"):
        case ".xz":
            return _XzStream(data)
        case ".gz":
            return gzip.GzipFile(fileobj=cast(IO[bytes], data))
        case "":
            return data
        case other:
            msg = f"its files are compressed as {other!r}, expected .xz, .gz or nothing"
            raise _Damaged(msg)


class _Unpacker:
    """Writes the members of one archive below a folder."""

    def __init__(self, folder: Path, patterns: Sequence[str], limit_bytes: int) -> None:
        self._root = folder
        self._limit = limit_bytes
        self._written = 0
        self._unmatched = set(patterns)
        self._patterns = tuple(patterns)
        self._folders = {folder}
        self._links: list[Path] = []

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = _inner_path(member.name, "member")
        if member.issparse():  # it claims more bytes than it has, and no package that dpkg makes holds one
            msg = f"{name!r} is a sparse file"
            raise _Damaged(msg)
        if not name or member.isdir():
            return
        matched = [pattern for pattern in self._patterns if fnmatchcase(name, pattern)]
        if not matched:
            return
        self._unmatched.difference_update(matched)
        path = self._root / name
        self._make_folder(path.parent)
        if os.path.lexists(path):
            msg = f"it has the name {name!r} twice"
            raise _Damaged(msg)
        if member.issym():
            if member.linkname.startswith("/") or not member.linkname:
                msg = f"link {name!r} leads to {member.linkname!r}, out of the package"
                raise _Damaged(msg)
            path.symlink_to(member.linkname)
            self._links.append(path)
        elif member.islnk():
            self._copy_earlier(name, path, _inner_path(member.linkname, "link"))
        elif member.isfile():
            self._write(archive, member, path)
        else:
            msg = f"{name!r} is neither a file nor a folder nor a link"
            raise _Damaged(msg)

    def finish(self) -> None:
        # Only now: a link can lead out through another one that came later.
        root = os.path.realpath(self._root)
        for link in self._links:
            if not Path(os.path.realpath(link)).is_relative_to(root):
                msg = f"link {link.relative_to(self._root).as_posix()!r} leads out of the package"
                raise _Damaged(msg)
        if self._unmatched - {"*"}:
            msg = f"it has no {', '.join(sorted(self._unmatched - {'*'}))}"
            raise _Damaged(msg)

    def _make_folder(self, folder: Path) -> None:
        """Creates a folder; one that is a link or a file is refused, so that nothing is written through a link."""
        if folder in self._folders:
            return
        self._make_folder(folder.parent)
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            msg = f"{folder.relative_to(self._root).as_posix()!r} is a folder and something else"
            raise _Damaged(msg)
        folder.mkdir(exist_ok=True)
        self._folders.add(folder)

    def _count(self, size: int) -> None:
        """Bounds what is written: hard links become copies, so that may be more than the archive holds."""
        self._written += size
        if self._written > self._limit:
            msg = f"it unpacks to more than {self._limit} bytes"
            raise _Damaged(msg)

    def _copy_earlier(self, name: str, path: Path, earlier: str) -> None:
        source = self._root / earlier
        if source.is_symlink() or not source.is_file() or not source.resolve().is_relative_to(self._root.resolve()):
            msg = f"{name!r} is a hard link to {earlier!r}, which is not among the files before it"
            raise _Damaged(msg)
        self._count(source.stat().st_size)
        shutil.copyfile(source, path)
        path.chmod(source.stat().st_mode & 0o777)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = archive.extractfile(member)
        assert source is not None  # it is a file
        left = member.size
        self._count(left)
        with path.open("xb") as target:
            while left:
                data = source.read(min(left, _CHUNK_BYTES))
                if not data:
                    msg = f"{member.name!r} is cut"
                    raise _Damaged(msg)
                target.write(data)
                left -= len(data)
        path.chmod(0o755 if member.mode & 0o111 else 0o644)


def _inner_path(name: str, what: str) -> str:
    """A member's name without ``./``; empty for the top."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        msg = f"{what} {name!r} lies outside the package"
        raise _Damaged(msg)
    return "/".join(parts)
