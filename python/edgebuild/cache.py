"""One cache for everything that is expensive to make: exports, lowered graphs, compiled runners, engines, proofs.

An entry is a folder under ``SECTION/KEY``, made once, complete or absent, and never changed. Its key is a hash of everything that
its content depends on. Entries are made in a temporary folder under a lock and renamed into place, so that a build that dies
leaves nothing half-made and two builds at once do the work once. An entry carries the size and SHA-256 of its files; one
that was damaged is thrown away and made anew. One that a living process uses is never trimmed away under it.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgebuild.errors import ResourceError, UsageError

_INDEX = ".entry.json"
_DEFAULT_LIMIT_MIB = 20 * 1024
_STALE_SECONDS = 24 * 3600

SECTIONS = {
    "export": "exported models",
    "graph": "optimised graphs",
    "calibration": "ranges measured on calibration data",
    "quantize": "quantised graphs and what they were chosen from",
    "lower": "what backends load",
    "native": "compiled runners",
    "engines": "engine libraries",
    "decisions": "what was settled by measuring",
    "proof": "results of running bundles",
    "bundles": "unpacked bundles",
    "staging": "bundles that are being built",
    "zig": "the cross-compiler's own cache",
}
"""Folders of the cache and what lies in them."""

_MANAGED = (
    "export",
    "graph",
    "calibration",
    "quantize",
    "lower",
    "native",
    "engines",
    "decisions",
    "proof",
    "staging",
    "bundles",
)
_SHARED = ("bundles",)
"""Sections that the native runner fills and reads too, without our locks: what it used within a day is left alone."""

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


@dataclass(frozen=True, kw_only=True)
class CacheSection:
    """One folder of the cache: how many entries, how many bytes."""

    name: str
    description: str
    path: Path
    entries: int
    bytes: int


def content_key(*parts: object) -> str:
    """A key from JSON-able parts: equal parts give equal keys, in any process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def user_cache_folder() -> Path:
    """The user's cache: ``$XDG_CACHE_HOME/edgebuild`` if that is absolute, as its specification says, else ``~/.cache/edgebuild``.

    Raises:
        UsageError: There is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "edgebuild"
    except RuntimeError:
        msg = "there is no home folder to keep the cache in"
        raise UsageError(msg, hint="set XDG_CACHE_HOME to a folder that you may write") from None


class Cache:
    """The cache below ``root``. Any number of processes may use it.

    What an instance gave out stays until the instance is gone: ``trim`` of another process passes over it.
    """

    def __init__(self, root: Path, *, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._held: dict[Path, int] = {}
        weakref.finalize(self, _close_all, self._held)

    @classmethod
    def default(cls) -> "Cache":
        """The user's cache (``user_cache_folder``).

        ``EDGEBUILD_CACHE_LIMIT_MIB`` bounds its size (default 20,480).

        Raises:
            UsageError: The limit is not a whole number, or there is no home folder.
        """
        text = os.environ.get("EDGEBUILD_CACHE_LIMIT_MIB", str(_DEFAULT_LIMIT_MIB))
        if not (text.isascii() and text.isdigit()):
            msg = f"EDGEBUILD_CACHE_LIMIT_MIB is {text!r}, expected a whole number of MiB"
            raise UsageError(msg)
        return cls(user_cache_folder(), limit_bytes=int(text) * 2**20)

    def get(self, section: str, key: str) -> Path | None:
        """The entry's folder if it is there and intact."""
        entry = self.root / section / key
        if not (entry / _INDEX).is_file():
            return None
        self._hold(section, key)
        if not _intact(entry):
            return None
        with suppress(OSError):  # a cache that may only be read still answers
            os.utime(entry / _INDEX)
        return entry

    def get_or_make(self, section: str, key: str, make: Callable[[Path], None]) -> Path:
        """As ``find_or_make``, without saying which of the two it was."""
        return self.find_or_make(section, key, make)[0]

    def find_or_make(self, section: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The entry's folder; if it is absent or damaged, ``make(folder)`` fills one first, once among all processes.

        Returns:
            The folder, and whether it was there.

        Raises:
            ResourceError: The disk is full, or the cache folder can't be written.
        """
        found = self.get(section, key)
        if found is not None:
            return found, True
        with self._lock(section, key):
            found = self.get(section, key)
            if found is not None:
                return found, True
            try:
                entry = self._make(section, key, make)
            except OSError as error:
                if not _is_about(error, self.root):
                    raise
                raise _as_resource_error(error, self.root) from error
            self._hold(section, key)
            return entry, False

    def _hold(self, section: str, key: str) -> None:
        """Keeps ``trim`` of any process away from an entry until this instance is gone."""
        path = self.root / section / f".{key}.use"
        if path in self._held:
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return  # nobody trims a cache that can't be written
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._held[path] = descriptor

    def staging_folder(self) -> Path:
        """A new folder for a bundle that is not proved yet; ``trim`` removes it if its build died.

        Raises:
            ResourceError: The cache folder can't be written.
        """
        try:
            (self.root / "staging").mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=".build.", dir=self.root / "staging"))
        except OSError as error:
            raise _as_resource_error(error, self.root) from error

    def _make(self, section: str, key: str, make: Callable[[Path], None]) -> Path:
        entry = self.root / section / key
        work = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=entry.parent))
        try:
            make(work)
            index = {
                str(path.relative_to(work)): [path.stat().st_size, file_sha256(path)]
                for path in sorted(work.rglob("*"))
                if path.is_file()
            }
            (work / _INDEX).write_text(json.dumps(index), encoding="utf-8")
            shutil.rmtree(entry, ignore_errors=True)
            work.rename(entry)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return entry

    @contextmanager
    def _lock(self, section: str, key: str) -> Iterator[None]:
        folder = self.root / section
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = (folder / f".{key}.lock").open("w")
        except OSError as error:
            raise _as_resource_error(error, self.root) from error
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def info(self) -> list[CacheSection]:
        """What lies in the cache, section by section."""
        return [
            CacheSection(
                name=name,
                description=description,
                path=self.root / name,
                entries=sum(1 for p in _children(self.root / name) if not p.name.startswith(".")),
                bytes=_tree_bytes(self.root / name),
            )
            for name, description in SECTIONS.items()
        ]

    def clean(self, section: str | None = None) -> int:
        """Removes a section, or everything. Returns the bytes that were freed.

        Raises:
            UsageError: There is no such section.
        """
        if section is not None and section not in SECTIONS:
            msg = f"the cache has no section {section!r}; it has {', '.join(SECTIONS)}"
            raise UsageError(msg)
        freed = 0
        for name in [section] if section else SECTIONS:
            before = _tree_bytes(self.root / name)
            shutil.rmtree(self.root / name, ignore_errors=True)
            freed += before - _tree_bytes(self.root / name)
        return freed

    def trim(self) -> None:
        """Removes what a killed build left, then the entries that were not used for longest until the limit holds.

        Never fails: what can't be looked at or removed stays, and so does what a process uses.
        """
        now = time.time()
        entries: list[tuple[float, int, Path]] = []
        for section in _MANAGED:
            for path in _children(self.root / section):
                used = _last_use(path)
                if path.name.startswith(".") or section == "staging":
                    if now - used > _STALE_SECONDS:
                        _remove(path)
                elif section not in _SHARED or now - used > _STALE_SECONDS:
                    entries.append((used, _tree_bytes(path), path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries, key=lambda e: e[0]):
            if self.limit_bytes is None or total <= self.limit_bytes:
                break
            with _unused(path) as free:
                if free:
                    _remove(path)
                    total -= size


def _close_all(held: dict[Path, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()


@contextmanager
def _unused(entry: Path) -> Iterator[bool]:
    """Whether no process holds the entry; none can begin to within the block."""
    try:
        stream = entry.with_name(f".{entry.name}.use").open("a")
    except OSError:
        yield False
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _last_use(path: Path) -> float:
    """When an entry, or what else lies in a section, was last used, in seconds since 1970; 0 if it is gone."""
    for candidate in (path / _INDEX, path):
        with suppress(OSError):
            status = candidate.lstat()
            # The native runner leaves no mark but the time of its access.
            return max(status.st_mtime, status.st_atime if path.parent.name in _SHARED else 0.0)
    return 0.0


def _remove(path: Path) -> None:
    """Removes an entry or a file; a lock file only if nobody holds it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError), path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _intact(entry: Path) -> bool:
    try:
        index: dict[str, list[object]] = json.loads((entry / _INDEX).read_text(encoding="utf-8"))
        return all(
            (entry / name).stat().st_size == size and file_sha256(entry / name) == sha256
            for name, (size, sha256) in index.items()
        )
    except (OSError, ValueError):
        return False


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _tree_bytes(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they can be seen: others may remove some meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{parent}/{name}").st_size
    return total


def _is_about(error: OSError, root: Path) -> bool:
    """Whether an error comes from the cache's own storage, and not from what ``make`` read elsewhere."""
    if error.errno in _STORAGE_ERRORS:
        return True
    return any(isinstance(name, str) and Path(name).is_relative_to(root) for name in (error.filename, error.filename2))


def _as_resource_error(error: OSError, root: Path) -> ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root if root.exists() else "/").free // 2**20
        return ResourceError(
            f"no space left for the cache in {root} ({free} MiB free)",
            hint="free some space, run `edgebuild cache clean`, or point XDG_CACHE_HOME at another disk",
        )
    return ResourceError(
        f"the cache folder {root} can't be used: {error.strerror or error}",
        hint="point XDG_CACHE_HOME at a folder that you may write",
    )
