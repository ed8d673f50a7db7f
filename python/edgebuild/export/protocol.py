"""What crosses between the parent and the worker: one JSON object a line on a pipe."""

import json
from collections.abc import Mapping
from typing import Any

from edgebuild.errors import ERRORS_BY_EXIT_CODE, CalibrationError, EdgebuildError, InternalError


def encode_progress(text: str) -> bytes:
    """A progress line."""
    return (json.dumps({"progress": text}) + "\n").encode()


def encode_error(error: EdgebuildError) -> bytes:
    """The error that ends the worker."""
    record = {"kind": type(error).__name__, "exit_code": error.exit_code, "message": error.message, "hint": error.hint}
    return (json.dumps({"error": record}) + "\n").encode()


def decode_error(record: Mapping[str, Any]) -> EdgebuildError:
    """The exception that ``encode_error`` wrote down."""
    kind = ERRORS_BY_EXIT_CODE.get(record["exit_code"], InternalError)
    if record.get("kind") == CalibrationError.__name__:  # it shares its exit code
        kind = CalibrationError
    return kind(str(record["message"]), hint=record["hint"])
