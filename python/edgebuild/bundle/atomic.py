"""Files and folders that appear whole or not at all, and operating system errors as ours."""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgebuild.errors import EdgebuildError, ResourceError, UsageError

_EXHAUSTED = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOLCK)
)


def from_os_error(error: OSError, what: str) -> EdgebuildError:
    """The error to raise for an OSError: ResourceError if something ran out, else UsageError (a path that can't be used)."""
    reason = error.strerror or str(error)
    if error.errno in _EXHAUSTED:
        return ResourceError(f"{what}: {reason}", hint="free some space or memory, or choose another folder")
    return UsageError(f"{what}: {reason}")


@contextlib.contextmanager
def atomic_file(output: Path) -> Iterator[BinaryIO]:
    """Give a stream whose bytes become ``output`` when the block ends well; else ``output`` stays as it was.

    The bytes go to a hidden file in the same folder, held by a lock for as long as its writer lives. One that a dead writer left
    has no such lock, and the next call removes it.

    Raises:
        ResourceError: No space, memory or descriptors.
        UsageError: The folder is missing or not writable, or ``output`` is a folder.
    """
    try:
        if output.is_dir():
            message = f"{output}: is a folder, expected the name of a file to write"
            raise UsageError(message)
        _remove_stale(output)
        stream, temporary = _create_locked(output)
        try:
            with stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                temporary.replace(output)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(output.parent)
    except OSError as error:
        raise from_os_error(error, f"{output}: can't be written") from error


@contextlib.contextmanager
def moved_file(source: Path, output: Path) -> Iterator[None]:
    """Makes ``source`` become ``output`` when the block ends well; else ``output`` stays as it was. ``source`` may be gone either way.

    At the block's beginning it lies complete beside ``output``, so that its end is one rename. Stale ones are removed as by ``atomic_file``.

    Raises:
        ResourceError: No space, memory or descriptors.
        UsageError: The folder is missing or not writable, or ``output`` is a folder.
    """
    temporary = _temporary_name(output)
    try:
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _remove_stale(output)
        with source.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # of the file, wherever it is moved
            try:
                source.rename(temporary)
                moved = True
            except OSError as error:
                # Two mounts of one file system have one device number, so only the attempt tells.
                if error.errno != errno.EXDEV:
                    raise
                moved = False
            if moved:
                try:
                    os.fsync(stream.fileno())
                    yield
                    temporary.replace(output)
                    sync_folder(output.parent)
                finally:
                    temporary.unlink(missing_ok=True)
                return
        with source.open("rb") as stream, atomic_file(output) as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
            yield
    except OSError as error:
        raise from_os_error(error, f"{output}: can't be written") from error


@contextlib.contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``output``, replacing an old one, when the block ends well. As ``atomic_file``."""
    try:
        _remove_stale(output)
        temporary = _temporary_name(output)
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        old: Path | None = None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield temporary
            if output.is_dir() and not output.is_symlink():
                old = _temporary_name(output)
                output.rename(old)
            try:
                temporary.rename(output)
            except BaseException:
                if old is not None:
                    old.rename(output)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(lock)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        sync_folder(output.parent)
    except OSError as error:
        raise from_os_error(error, f"{output}: can't be written") from error


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stem(output: Path) -> str:
    # By hash, so that the longest name that a file system takes still leaves room for ours.
    return f".edgebuild-{hashlib.sha256(os.fsencode(output.name)).hexdigest()[:12]}-"


def _temporary_name(output: Path) -> Path:
    return output.parent / f"{_stem(output)}{secrets.token_hex(6)}.tmp"


def _create_locked(output: Path) -> tuple[BinaryIO, Path]:
    while True:
        temporary = _temporary_name(output)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between creating and locking another build may have taken the file for a dead one's.
        if os.fstat(descriptor).st_nlink:
            return os.fdopen(descriptor, "w+b"), temporary
        os.close(descriptor)


def _remove_stale(output: Path) -> None:
    for path in output.parent.glob(f"{_stem(output)}*.tmp"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue  # its writer lives
        finally:
            os.close(descriptor)
