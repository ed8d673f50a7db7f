"""The verdicts of edgebuild's Python reader, as exit codes."""

from pathlib import Path

from edgebuild.bundle.manifest import Manifest
from edgebuild.bundle.reader import Bundle
from edgebuild.errors import EdgebuildError


def manifest_verdict(data: bytes) -> int:
    try:
        Manifest.from_bytes(data)
    except EdgebuildError as error:
        return error.exit_code
    return 0


def open_verdict(path: Path) -> int:
    try:
        Bundle.open(path)
    except EdgebuildError as error:
        return error.exit_code
    return 0


def verify_verdict(path: Path) -> int:
    try:
        Bundle.open(path).verify_files()
    except EdgebuildError as error:
        return error.exit_code
    return 0
