"""What an entry of the cache holds to be itself: its files by size and SHA-256, which of them are programs, and links to folders."""

import hashlib
import json
import os
from pathlib import Path

from edgebuild.cache_sweep import INDEX

SHAPE = ".shape.json"
"""Programs and links to folders of an entry that has any; itself one of the files of the index."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_index(entry: Path) -> None:
    """Writes down what lies in an entry that was just made."""
    paths = {path.relative_to(entry).as_posix(): path for path in sorted(entry.rglob("*"))}
    links = {name: str(path.readlink()) for name, path in paths.items() if path.is_symlink() and path.is_dir()}
    programs = [name for name, path in paths.items() if path.is_file() and os.access(path, os.X_OK)]
    files = {name: path for name, path in paths.items() if path.is_file()}
    if links or programs:
        files[SHAPE] = entry / SHAPE
        files[SHAPE].write_text(json.dumps({"links": links, "programs": programs}), encoding="utf-8")
    index = {name: [path.stat().st_size, file_sha256(path)] for name, path in files.items()}
    (entry / INDEX).write_text(json.dumps(index), encoding="utf-8")


def is_intact(entry: Path) -> bool:
    """Whether an entry still is what was made, no file more and none less."""
    try:
        index: dict[str, list[object]] = json.loads((entry / INDEX).read_text(encoding="utf-8"))
        for name, (size, sha256) in index.items():
            if (entry / name).stat().st_size != size or file_sha256(entry / name) != sha256:
                return False
        found = {path.relative_to(entry).as_posix() for path in entry.rglob("*") if path.is_file()}
        if found != {*index, INDEX}:
            return False
        shape = json.loads((entry / SHAPE).read_text(encoding="utf-8")) if SHAPE in index else {}
        return all(str((entry / name).readlink()) == to for name, to in shape.get("links", {}).items()) and all(
            os.access(entry / name, os.X_OK) for name in shape.get("programs", ())
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False
