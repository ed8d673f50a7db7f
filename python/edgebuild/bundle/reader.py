"""Opening a bundle in either form and reading its files, each held to its hash."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgebuild.bundle import archive, atomic
from edgebuild.bundle.manifest import FileEntry, GoldenSequence, GoldenTensor, GoldenValue, Manifest
from edgebuild.bundle.paths import MANIFEST, MANIFEST_HASH, MANIFEST_SIGNATURE, MAX_SEGMENTS, RESERVED
from edgebuild.bundle.strict_json import MAX_BYTES
from edgebuild.cache import cache_unusable, user_cache_folder
from edgebuild.errors import BundleError, EdgebuildError, ResourceError, UsageError
from edgebuild.model.signature import Signature

MAX_SIGNATURE_BYTES = 64 * 1024
_HASH_FILE_BYTES = 65
_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Hears a file's path, the bytes done so far, and the bytes in all."""


@dataclass(frozen=True, kw_only=True)
class GoldenArrays:
    """A decoded golden: arrays (or lists for sequences, None for an empty optional) by name, in the signature's order."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


class Bundle:
    """A bundle whose structure and manifest were checked; files are checked when they are read.

    Objects are immutable and may be used from any number of threads.
    """

    def __init__(self, path: Path, manifest: Manifest, bundle_id: str, index: archive.ArchiveIndex | None) -> None:
        """Not for users: see ``open``."""
        self._path = path
        self._manifest = manifest
        self._id = bundle_id
        self._index = index

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Open the archive or the directory form.

        Raises:
            BundleError: Structure, hash of the manifest or manifest are not as the format says.
            IncompatibleError: Another major version, or a required feature that this reader does not know.
            UsageError: There is no such file or folder, or it may not be read.
            ResourceError: It can't be read.
        """
        location = Path(path).absolute()
        try:
            if location.is_dir():
                return cls._open_directory(location)
            if not stat.S_ISREG(location.stat().st_mode):
                message = f"{location}: expected a bundle, got neither a file nor a folder"
                raise UsageError(message)
            with location.open("rb") as stream:
                return cls._open_archive(location, stream)
        except OSError as error:
            raise atomic.from_os_error(error, f"{location}: can't be opened") from error

    @classmethod
    def _open_archive(cls, location: Path, stream: BinaryIO) -> "Bundle":
        index = archive.read_index(stream, where=location.name)

        def read(name: str, limit: int) -> bytes:
            member = index.members.get(name)
            if member is None:
                message = f"{location.name}: has no {name}"
                raise BundleError(message)
            if member.size > limit or member.executable:
                message = f"{location.name}: {name}: expected mode 0644 and at most {limit} bytes, got {member.size}"
                raise BundleError(message)
            stream.seek(member.offset)
            return stream.read(member.size)

        manifest, bundle_id = _read_manifest(read, has_signature=MANIFEST_SIGNATURE in index.members)
        found = {name: member.size for name, member in index.members.items() if name not in RESERVED}
        _check_listing(location.name, found, manifest)
        for name, entry in manifest.files.items():
            if index.members[name].executable != entry.executable:
                message = f"{location.name}: {name}: the manifest says mode {entry.mode}, the archive does not"
                raise BundleError(message)
        if index.top != manifest.top:
            message = f"{location.name}: expected the top folder {manifest.top}, got {index.top}"
            raise BundleError(message)
        return cls(location, manifest, bundle_id, index)

    @classmethod
    def _open_directory(cls, location: Path) -> "Bundle":
        def read(name: str, limit: int) -> bytes:
            with _open_regular(location / name, name) as stream:
                data = stream.read(limit + 1)
            if len(data) > limit:
                message = f"{location.name}: {name}: expected at most {limit} bytes"
                raise BundleError(message)
            return data

        found: dict[str, int] = {}
        _list_folder(location, "", found, 1)
        manifest, bundle_id = _read_manifest(read, has_signature=MANIFEST_SIGNATURE in found)
        _check_listing(location.name, {name: size for name, size in found.items() if name not in RESERVED}, manifest)
        return cls(location, manifest, bundle_id, None)

    @property
    def path(self) -> Path:
        """Where it was opened, absolute."""
        return self._path

    @property
    def id(self) -> str:
        """SHA-256 of the manifest, in hex; it identifies all of the bundle's bytes."""
        return self._id

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def signature(self) -> Signature:
        return self._manifest.signature

    @property
    def is_archive(self) -> bool:
        return self._index is not None

    @property
    def edgerun(self) -> Path | None:
        """The native runner inside the directory form (unpacked first if need be); None if the bundle has none.

        Raises:
            BundleError: The program at this path is damaged; as ``directory`` besides.
        """
        if "bin/edgerun" not in self._manifest.files:
            return None
        folder = self.directory()
        # It is about to be executed: the copy in the cache counts, not the archive.
        Bundle(folder, self._manifest, self._id, None).read("bin/edgerun")
        return folder / "bin/edgerun"

    def __repr__(self) -> str:
        return f"Bundle({str(self._path)!r}, id={self._id[:12]})"

    def read(self, path: str) -> bytes:
        """The bytes of a listed file, checked against its hash.

        Raises:
            BundleError: The bytes are not what the manifest says, or no such file is listed.
        """
        data = b"".join(self._chunks(path))
        _check_digest(path, hashlib.sha256(data).hexdigest(), self._entry(path))
        return data

    def verify_files(self, progress: Progress | None = None) -> None:
        """Check size and hash of every file.

        Raises:
            BundleError: One differs; the message names it.
        """
        total = sum(entry.size for entry in self._manifest.files.values())
        done = 0
        for path in sorted(self._manifest.files):
            digest = hashlib.sha256()
            for chunk in self._chunks(path):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(path, done, total)
            _check_digest(path, digest.hexdigest(), self._entry(path))
            if progress is not None and self._entry(path).size == 0:
                progress(path, done, total)

    def goldens(self) -> tuple[GoldenArrays, ...]:
        """The inputs and outputs of the original model, decoded; ``edgebuild.bundle.values`` says how each dtype comes.

        Raises:
            BundleError: A file is damaged or does not hold what its dtype says.
        """
        names = [[spec.name for spec in specs] for specs in (self.signature.inputs, self.signature.outputs)]
        return tuple(
            GoldenArrays(
                inputs={name: self._decode(golden.inputs[name]) for name in names[0]},
                outputs={name: self._decode(golden.outputs[name]) for name in names[1]},
            )
            for golden in self._manifest.goldens
        )

    def directory(self) -> Path:
        """The directory form. An archive is unpacked into the cache, checked on the way, the first time it is asked for.

        The place is ``$XDG_CACHE_HOME/edgebuild/bundles/ID/NAME.TARGET``, shared with the native runner. Any number of processes
        may do this at once.

        Raises:
            BundleError: A file differs from its hash.
            ResourceError: No space.
            ToolError: The cache folder can't be used.
        """
        if self._index is None:
            return self._path
        home = cache_folder() / self._id
        folder = home / self._manifest.top
        try:
            if _is_sound(folder, self._id):
                return folder
            home.parent.mkdir(parents=True, exist_ok=True)
            temporary = home.parent / f".{self._id[:16]}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
            try:
                self._unpack(temporary / self._manifest.top)
                _move_into_place(temporary, home, folder, self._id)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            raised = atomic.from_os_error(error, f"{home}: can't be unpacked")
            raise raised if isinstance(raised, ResourceError) else cache_unusable(error, cache_folder()) from error
        return folder

    def _unpack(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in RESERVED:
            if self._index is not None and name in self._index.members:
                (folder / name).write_bytes(b"".join(self._member(name)))
        for path, entry in self._manifest.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("xb") as stream:
                for chunk in self._chunks(path):
                    digest.update(chunk)
                    stream.write(chunk)
            _check_digest(path, digest.hexdigest(), entry)
            target.chmod(0o755 if entry.executable else 0o644)

    def _entry(self, path: str) -> FileEntry:
        entry = self._manifest.files.get(path)
        if entry is None:
            message = f"{self._path.name}: lists no file {path!r}"
            raise BundleError(message)
        return entry

    def _chunks(self, path: str) -> Iterator[bytes]:
        entry = self._entry(path)
        try:
            if self._index is not None:
                yield from self._member(path)
                return
            with _open_regular(self._path / path, path) as stream:
                left = entry.size + 1  # one more than listed, to notice a file that grew
                while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise atomic.from_os_error(error, f"{self._path}: {path}: can't be read") from error

    def _member(self, path: str) -> Iterator[bytes]:
        assert self._index is not None
        member = self._index.members[path]
        with self._path.open("rb") as stream:
            stream.seek(member.offset)
            left = member.size
            while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk

    def _decode(self, value: GoldenValue) -> Any:
        from edgebuild.bundle import values  # numpy is not needed to look at a manifest

        if isinstance(value, GoldenTensor):
            return values.decode(self.read(value.file), value.dtype, value.shape, where=value.file)
        if isinstance(value, GoldenSequence):
            return [self._decode(item) for item in value.items]
        return None


def cache_folder() -> Path:
    """Where archives are unpacked."""
    return user_cache_folder() / "bundles"


def _read_manifest(read: Callable[[str, int], bytes], *, has_signature: bool) -> tuple[Manifest, str]:
    written = read(MANIFEST_HASH, _HASH_FILE_BYTES)
    data = read(MANIFEST, MAX_BYTES)
    bundle_id = hashlib.sha256(data).hexdigest()
    if written != f"{bundle_id}\n".encode():
        message = f"{MANIFEST}: its SHA-256 is {bundle_id}, {MANIFEST_HASH} says otherwise: damaged"
        raise BundleError(message)
    if has_signature:
        read(MANIFEST_SIGNATURE, MAX_SIGNATURE_BYTES)
    return Manifest.from_bytes(data), bundle_id


def _check_listing(where: str, found: Mapping[str, int], manifest: Manifest) -> None:
    for path, entry in manifest.files.items():
        if path not in found:
            message = f"{where}: {path}: the manifest lists it, but it is missing"
            raise BundleError(message)
        if found[path] != entry.size:
            message = f"{where}: {path}: expected {entry.size} bytes, got {found[path]}"
            raise BundleError(message)
    for path in found:
        if path not in manifest.files:
            message = f"{where}: {path!r}: not listed in the manifest"
            raise BundleError(message)


def _check_digest(path: str, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        message = f"{path}: expected SHA-256 {entry.sha256}, got {digest}: damaged"
        raise BundleError(message, hint="build or copy the bundle again")


def _open_regular(path: Path, name: str) -> BinaryIO:
    try:
        # Not through a link, and without waiting for the other end of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            message = f"{name}: the bundle has no such file ({error.strerror})"
            raise BundleError(message) from error
        raise
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        message = f"{name}: expected a regular file"
        raise BundleError(message)
    return stream


def _list_folder(folder: Path, prefix: str, found: dict[str, int], level: int) -> None:
    with os.scandir(folder) as entries:
        empty = True
        for entry in entries:
            empty = False
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False) and level < MAX_SEGMENTS:
                _list_folder(Path(entry.path), f"{path}/", found, level + 1)
            elif entry.is_file(follow_symlinks=False):
                found[path] = entry.stat(follow_symlinks=False).st_size
            else:
                message = f"{path!r}: expected regular files and folders, got a link, a device or too deep a folder"
                raise BundleError(message)
    if empty and prefix:
        message = f"{prefix!r}: an empty folder is not part of a bundle"
        raise BundleError(message)


def _is_sound(folder: Path, bundle_id: str) -> bool:
    """Whether the cache already holds this bundle; a damaged copy counts as none."""
    try:
        return folder.is_dir() and Bundle.open(folder).id == bundle_id
    except EdgebuildError:
        return False


def _move_into_place(temporary: Path, home: Path, folder: Path, bundle_id: str) -> None:
    for _ in range(10):
        try:
            temporary.rename(home)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        if _is_sound(folder, bundle_id):  # another process was faster
            return
        damaged = home.parent / f"{temporary.name}.old"
        with contextlib.suppress(FileNotFoundError):
            home.rename(damaged)
        if damaged.is_dir() and not damaged.is_symlink():
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            damaged.unlink(missing_ok=True)
    message = f"{home}: can't replace a damaged copy of the bundle"
    raise UsageError(message, hint="remove the folder")


def to_json(bundle: Bundle) -> dict[str, Any]:
    """What ``edgebuild inspect --json`` prints about a bundle."""
    data: dict[str, Any] = json.loads(bundle.manifest.to_bytes())
    return {"id": bundle.id, **data}
