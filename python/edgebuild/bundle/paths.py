"""Paths inside a bundle: what a segment and a path may be, and which sets of paths can stand side by side."""

import re
from collections.abc import Iterable

MAX_SEGMENT = 100
MAX_PATH = 240
MAX_SEGMENTS = 16

MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
MANIFEST_SIGNATURE = "manifest.sig"
RESERVED = (MANIFEST, MANIFEST_HASH, MANIFEST_SIGNATURE)
"""Files that describe the bundle and are never listed in it."""

SEGMENT_PATTERN = r"(?!\.{1,2}$)[A-Za-z0-9._][A-Za-z0-9._-]{0,99}"
_SEGMENT = re.compile(SEGMENT_PATTERN.replace("$", r"\Z"))


def is_segment(text: str) -> bool:
    """Whether ``text`` may be one segment of a path: 1 to 100 of ``A-Za-z0-9._-``, not ``.`` or ``..``, no leading ``-``."""
    return _SEGMENT.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether ``text`` is a relative path that a bundle may hold."""
    if not 1 <= len(text) <= MAX_PATH:
        return False
    segments = text.split("/")
    return len(segments) <= MAX_SEGMENTS and all(is_segment(segment) for segment in segments)


def to_segment(text: str, *, max_length: int = 48) -> str:
    """The nearest segment to a free text such as a file's stem: ``my model (1)`` becomes ``my_model_1``.

    Never fails: a text without any usable character becomes ``model``.
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_.-")[:max_length].strip("_.-")
    return cleaned or "model"


def find_conflict(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that can't both be in a bundle: equal without regard to case, or one a folder of the other."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        folded = path.lower()
        if folded in files:
            return files[folded], path
        if folded in folders:
            return path, folders[folded]
        files[folded] = path
        end = folded.find("/")
        while end >= 0:
            folder = folded[:end]
            if folder in files:
                return files[folder], path
            folders.setdefault(folder, path)
            end = folded.find("/", end + 1)
    return None
