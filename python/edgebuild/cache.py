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
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgebuild import cache_sweep as sweep
from edgebuild.cache_index import file_sha256 as file_sha256
from edgebuild.cache_index import is_intact, write_index
from edgebuild.errors import EdgebuildError, ResourceError, ToolError, UsageError

_DEFAULT_LIMIT_MIB = 20 * 1024

SECTIONS = {
    "export": "exported models",
    "graph": "optimised graphs",
    "calibration": "ranges measured on calibration data",
    "quantize": "quantised graphs and what they were chosen from",
    "explain": "what was found out about a quantised graph",
    "lower": "what backends load",
    "native": "compiled runners",
    "engines": "engine libraries",
    "debian": "Debian packages, as downloaded and unpacked",
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
    "explain",
    "lower",
    "native",
    "engines",
    "debian",
    "decisions",
    "proof",
    "staging",
    "bundles",
)
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
        if not (entry / sweep.INDEX).is_file():
            return None
        self._hold(section, key)
        if not is_intact(entry):
            return None
        with suppress(OSError):  # a cache that may only be read still answers
            os.utime(entry / sweep.INDEX)
        return entry

    def get_or_make(self, section: str, key: str, make: Callable[[Path], None]) -> Path:
        """As ``find_or_make``, without saying which of the two it was."""
        return self.find_or_make(section, key, make)[0]

    def find_or_make(self, section: str, key: str, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The entry's folder; if it is absent or damaged, ``make(folder)`` fills one first, once among all processes.

        Returns:
            The folder, and whether it was there.

        Raises:
            ResourceError: The disk is full.
            ToolError: The cache folder can't be used.
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
                raise _as_ours(error, self.root) from error
            self._hold(section, key)
            return entry, False

    def _hold(self, section: str, key: str) -> None:
        """Keeps ``trim`` of any process away from an entry until this instance is gone."""
        path = self.root / section / f".{key}.use"
        if path in self._held:
            return
        try:
            self._held[path] = sweep.lock_file(path, fcntl.LOCK_SH)
        except OSError:
            return  # nobody trims a cache that can't be written

    def staging_folder(self) -> Path:
        """A new folder for a bundle that is not proved yet; ``trim`` and ``clean`` remove it once this process is gone.

        Raises:
            ResourceError: The disk is full.
            ToolError: The cache folder can't be written.
        """
        for gone in [path for path in _staged if not path.exists()]:
            os.close(_staged.pop(gone))
        while True:
            try:
                (self.root / sweep.STAGING).mkdir(parents=True, exist_ok=True)
                folder = Path(tempfile.mkdtemp(prefix=".build.", dir=self.root / sweep.STAGING))
            except OSError as error:
                raise _as_ours(error, self.root) from error
            descriptor = sweep.claim(folder)
            if descriptor is not None:
                _staged[folder] = descriptor
                return folder

    def _make(self, section: str, key: str, make: Callable[[Path], None]) -> Path:
        entry = self.root / section / key
        claimed = None
        while claimed is None:  # a cleaner may be faster than the claim
            work = Path(tempfile.mkdtemp(prefix=f".{key[:16]}.", dir=entry.parent))
            claimed = sweep.claim(work)
        try:
            make(work)
            write_index(work)
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            work.rename(entry)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        finally:
            os.close(claimed)
        return entry

    @contextmanager
    def _lock(self, section: str, key: str) -> Iterator[None]:
        folder = self.root / section
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = sweep.lock_file(folder / f".{key}.lock", fcntl.LOCK_EX)
        except OSError as error:
            raise _as_ours(error, self.root) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def info(self) -> list[CacheSection]:
        """What lies in the cache, section by section."""
        return [
            CacheSection(
                name=name,
                description=description,
                path=self.root / name,
                entries=sum(1 for p in sweep.children(self.root / name) if not p.name.startswith(".")),
                bytes=sweep.tree_bytes(self.root / name),
            )
            for name, description in SECTIONS.items()
        ]

    def clean(self, section: str | None = None) -> sweep.Cleaned:
        """Removes a section, or everything, but what a living process (a build, a runner) uses.

        Raises:
            UsageError: There is no such section.
        """
        if section is not None and section not in SECTIONS:
            msg = f"the cache has no section {section!r}; it has {', '.join(SECTIONS)}"
            raise UsageError(msg)
        return sweep.clean(self.root, [section] if section else list(SECTIONS))

    def trim(self) -> None:
        """Removes what a killed build left, then the entries that were not used for longest until the limit holds.

        Never fails: what can't be looked at or removed stays, and so does what a process uses.
        """
        sweep.trim(self.root, _MANAGED, self.limit_bytes)


_staged: dict[Path, int] = {}
"""Staging folders of this process, each with the descriptor that marks it as in use."""


def _close_all(held: dict[Path, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()


def _is_about(error: OSError, root: Path) -> bool:
    """Whether an error comes from the cache's own storage, and not from what ``make`` read elsewhere."""
    if error.errno in _STORAGE_ERRORS:
        return True
    return any(isinstance(name, str) and Path(name).is_relative_to(root) for name in (error.filename, error.filename2))


def _as_ours(error: OSError, root: Path) -> EdgebuildError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root if root.exists() else "/").free // 2**20
        return ResourceError(
            f"no space left for the cache in {root} ({free} MiB free)",
            hint="free some space, run `edgebuild cache clean`, or point XDG_CACHE_HOME at another disk",
        )
    return cache_unusable(error, root)


def cache_unusable(error: OSError, root: Path) -> ToolError:
    """The error for a cache folder that the operating system does not let us use."""
    if error.errno == errno.ENOENT and root.exists():
        msg = f"files of the cache {root} were removed while they were used: {error.filename}"
        return ToolError(msg, hint="build again; `edgebuild cache clean` leaves what a build uses")
    return ToolError(
        f"the cache folder {root} can't be used: {error.strerror or error}",
        hint="point XDG_CACHE_HOME at a folder that you may write",
    )
