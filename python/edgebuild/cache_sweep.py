"""Removing from the cache: what is old when the limit is reached, or all of it; never what a living process uses.

What is in use shows in locks, which die with their process: an entry's ``.KEY.use`` is held shared by everyone who was given
the entry, ``.KEY.lock`` by who makes it, and a work folder (its name begins with a dot) is locked itself. The native runner
takes no locks; an unpacked bundle is in use while a process has a file of it mapped.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

INDEX = ".entry.json"
"""The file that makes an entry complete: size and hash of each of its files."""
SHARED = ("bundles",)
"""Sections that the native runner fills and reads too, without our locks: what it used within a day is not trimmed."""
STAGING = "staging"
COMPILER = "zig"
"""The compiler's own cache: in use while a runner is being compiled."""
COMPILED = "native"

_STALE_SECONDS = 24 * 3600
_UNPACKING_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What ``clean`` did: bytes that were freed, and entries that stay because a process uses them."""

    freed_bytes: int
    kept: int


def claim(folder: Path) -> int | None:
    """Marks a work folder as in use for as long as this process keeps the descriptor; None if it is gone again."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if folder.exists():
        return descriptor
    os.close(descriptor)
    return None


def lock_file(path: Path, operation: int) -> int:
    """Opens and locks a lock file; one that was removed between the two is made anew."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, operation)
        except BaseException:
            os.close(descriptor)
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def clean(root: Path, sections: Sequence[str]) -> Cleaned:
    """Removes what nobody uses from these sections. Never fails: what can't be looked at or removed stays."""
    freed = kept = 0
    mapped = _mapped_files() if set(sections) & set(SHARED) else ""
    for section in sections:
        folder = root / section
        before = tree_bytes(folder)
        if section == COMPILER:
            if any(_is_claimed(path) for path in children(root / COMPILED) if path.name.startswith(".")):
                kept += 1
            else:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            kept += sum(not _clean_one(path, section, mapped) for path in children(folder))
        freed += before - tree_bytes(folder)
    return Cleaned(freed_bytes=freed, kept=kept)


def _clean_one(path: Path, section: str, mapped: str) -> bool:
    """Removes one child of a section; False if it has to stay. A lock file counts as gone: it is not worth a word."""
    if not path.is_dir() or path.is_symlink():
        remove(path)
        return True
    if section in SHARED:
        young = path.name.startswith(".") and time.time() - _last_use(path) < _UNPACKING_SECONDS
        if young or f"{path.resolve()}/" in mapped:
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    if path.name.startswith(".") or section == STAGING:
        return not _is_claimed(path, remove_if_not=True)
    with _unused(path, being_made=True) as free:
        if free:
            remove(path)
            for kind in ("lock", "use"):  # whoever waits for one of them finds out and makes it anew
                path.with_name(f".{path.name}.{kind}").unlink(missing_ok=True)
        return free


def trim(root: Path, sections: Sequence[str], limit_bytes: int | None) -> None:
    """Removes what a killed build left, then the entries that were not used for longest until the limit holds."""
    now = time.time()
    entries: list[tuple[float, int, Path]] = []
    for section in sections:
        for path in children(root / section):
            used = _last_use(path)
            if path.name.startswith(".") or section == STAGING:
                if now - used > _STALE_SECONDS and not (path.is_dir() and _is_claimed(path)):
                    remove(path)
            elif section not in SHARED or now - used > _STALE_SECONDS:
                entries.append((used, tree_bytes(path), path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries, key=lambda e: e[0]):
        if limit_bytes is None or total <= limit_bytes:
            break
        with _unused(path) as free:
            if free:
                remove(path)
                total -= size


@contextmanager
def _unused(entry: Path, *, being_made: bool = False) -> Iterator[bool]:
    """Whether no process holds the entry (nor makes it anew); none can begin to within the block."""
    with ExitStack() as held:
        try:
            for kind in ("lock", "use") if being_made else ("use",):
                descriptor = lock_file(entry.with_name(f".{entry.name}.{kind}"), fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.callback(os.close, descriptor)
        except OSError:
            yield False
            return
        yield True


def _is_claimed(folder: Path, *, remove_if_not: bool = False) -> bool:
    """Whether a living process works in this folder; if none does it may be removed before one can begin to."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove_if_not:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _mapped_files() -> str:
    """The memory maps of all processes that may be looked at; what they have loaded is named there by its path."""
    maps: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            maps.append((process / "maps").read_text(encoding="utf-8", errors="replace"))
    return "\n".join(maps)


def _last_use(path: Path) -> float:
    """When an entry, or what else lies in a section, was last used, in seconds since 1970; 0 if it is gone."""
    for candidate in (path / INDEX, path):
        with suppress(OSError):
            status = candidate.lstat()
            # The native runner leaves no mark but the time of its access.
            return max(status.st_mtime, status.st_atime if path.parent.name in SHARED else 0.0)
    return 0.0


def remove(path: Path) -> None:
    """Removes an entry or a file; a lock file only if nobody holds it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError), path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def children(folder: Path) -> list[Path]:
    """What lies in a folder, sorted; nothing if it can't be looked at."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def tree_bytes(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they can be seen: others may remove some meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{parent}/{name}").st_size
    return total
