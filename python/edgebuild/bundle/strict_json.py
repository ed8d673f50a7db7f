"""JSON of manifests: a reader stricter than RFC 8259, so that every reader agrees, and the canonical writer.

The rules are in docs/bundle-format.md. What comes out of ``parse`` is dict, list, str, int, float, bool and None; an ``int`` was
written without fraction and exponent and lies within ±(2^53 - 1), a ``float`` is finite.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from edgebuild.errors import BundleError

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 1_000_000
MAX_INTEGER = 2**53 - 1

# A string (also one that never ends, so that the scan stays linear) or a bracket.
_TOKEN = re.compile(rb'(?s)"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]')
_UNPAIRED = re.compile("[\ud800-\udfff\0]")


def parse(data: bytes) -> Any:
    """Parse the bytes of a manifest.

    Raises:
        BundleError: The bytes break a rule; the message says which.
    """
    if len(data) > MAX_BYTES:
        _refuse(f"is larger than {MAX_BYTES} bytes: {len(data)}")
    if data.startswith(b"\xef\xbb\xbf"):
        _refuse("begins with a byte order mark")
    _check_depth(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_object,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        _refuse(f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}")
    _check_strings_and_count(value)
    return value


def canonical(value: Mapping[str, Any]) -> bytes:
    """The bytes that edgebuild writes: sorted keys, two spaces, UTF-8 as it is, a newline at the end."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def _refuse(what: str) -> NoReturn:
    message = f"manifest.json {what}"
    raise BundleError(message)


def _refuse_constant(text: str) -> NoReturn:
    _refuse(f"holds {text}, which is not a JSON number")


def _check_depth(data: bytes) -> None:
    # Before the recursive parser sees the text; brackets inside strings don't count.
    depth = 0
    for match in _TOKEN.finditer(data):
        first = match[0][0]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                _refuse(f"is nested deeper than {MAX_DEPTH} levels at byte {match.start()}")
        elif first in b"]}":
            depth -= 1


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _refuse(f"has the key {key!r} twice in one object")
            seen.add(key)
    return result


def _parse_int(text: str) -> int:
    # Sixteen digits and a sign at most: int() of a megabyte of digits would take quadratic time.
    value = int(text) if len(text) <= 17 else None
    if value is None or abs(value) > MAX_INTEGER:
        _refuse(f"holds an integer beyond 2^53 - 1: {text[:24]}")
    return value


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _refuse(f"holds a number beyond binary64: {text[:24]}")
    return value


def _check_strings_and_count(root: Any) -> None:
    count = 0
    pending = [root]
    while pending:
        value = pending.pop()
        count += 1
        if isinstance(value, str):
            _check_string(value)
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            for key in value:
                _check_string(key)
            pending.extend(value.values())
        if count + len(pending) > MAX_VALUES:
            _refuse(f"holds more than {MAX_VALUES} values")


def _check_string(text: str) -> None:
    match = None if text.isascii() and "\0" not in text else _UNPAIRED.search(text)
    if match is not None:
        _refuse(f"holds the character U+{ord(match[0]):04X} in a string")
