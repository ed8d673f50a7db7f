"""Hashes of edgebuild's own sources: a changed stage must not be answered from the cache."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def source_digest(*packages: str) -> str:
    """SHA-256 over the Python files of these subpackages, by name and content."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()
