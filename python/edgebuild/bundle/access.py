"""Typed access to a parsed manifest: each takes a key's path and a value, and gives the value back if it is what it should be.

All raise BundleError, naming the path, what was expected and what came.
"""

import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from edgebuild.bundle.paths import is_segment
from edgebuild.errors import BundleError

MAX_NAME_BYTES = 1_024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MISSING = object()

Check = Callable[[str, Any], object]


def refuse(where: str, expected: str, got: Any) -> NoReturn:
    """Raises the error."""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    message = f"manifest.json: {where or 'the root'}: expected {expected}, got {shown}"
    raise BundleError(message)


def get(where: str, holder: dict[str, Any], key: str) -> Any:
    """The member of that name, which must be there."""
    value = holder.get(key, _MISSING)
    if value is _MISSING:
        message = f"manifest.json: {where}{'.' if where else ''}{key}: the key is missing"
        raise BundleError(message)
    return value


def an_object(where: str, value: Any) -> dict[str, Any]:
    """An object."""
    return value if isinstance(value, dict) else refuse(where, "an object", value)


def a_list(where: str, value: Any, limit: int | None = None) -> list[Any]:
    """A list, of at most ``limit`` entries."""
    if not isinstance(value, list):
        refuse(where, "a list", value)
    if limit is not None and len(value) > limit:
        refuse(where, f"at most {limit} entries", len(value))
    return value


def a_string(where: str, value: Any) -> str:
    """A string."""
    return value if isinstance(value, str) else refuse(where, "a string", value)


def strings(where: str, value: Any) -> list[str]:
    """A list of strings."""
    return [a_string(f"{where}[{index}]", item) for index, item in enumerate(a_list(where, value))]


def a_name(where: str, value: Any) -> str:
    """A name of an input, an output or a symbol."""
    text = a_string(where, value)
    size = len(text.encode())
    return text if 1 <= size <= MAX_NAME_BYTES else refuse(where, f"1 to {MAX_NAME_BYTES} bytes", f"{size} bytes")


def a_segment(where: str, value: Any) -> str:
    """A segment of a path."""
    text = a_string(where, value)
    return text if is_segment(text) else refuse(where, "1 to 100 of A-Z a-z 0-9 . _ -", text)


def a_size(where: str, value: Any) -> int:
    """An integer of 0 or more."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    refuse(where, "an integer of 0 or more", value)


def a_magnitude(where: str, value: Any) -> float:
    """A number of 0 or more."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return value
    refuse(where, "a number of 0 or more", value)


def a_scalar(where: str, value: Any) -> Any:
    """Null, a boolean, a number or a string."""
    return value if value is None or isinstance(value, str | int | float) else refuse(where, "null or a scalar", value)


def a_choice(where: str, value: Any, choices: Collection[str]) -> str:
    """One of a closed set of strings."""
    text = a_string(where, value)
    return text if text in choices else refuse(where, f"one of {', '.join(choices)}", text)


def a_sha256(where: str, value: Any) -> str:
    """A hash."""
    text = a_string(where, value)
    return text if _SHA256.fullmatch(text) else refuse(where, "64 lower-case hexadecimal digits", text)


def a_file(where: str, value: Any, files: dict[str, Any]) -> str:
    """A path that ``files`` lists."""
    text = a_string(where, value)
    return text if text in files else refuse(where, "a path that files lists", text)


def optional(where: str, value: Any, check: Check) -> Any:
    """Null, or what ``check`` takes."""
    return None if value is None else check(where, value)


def a_map(where: str, value: Any, check: Check) -> None:
    """An object whose members ``check`` takes."""
    for key, item in an_object(where, value).items():
        check(f"{where}[{key!r}]", item)


def unique(where: str, names: list[str]) -> None:
    """Refuses a list with a name twice."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        refuse(where, "no name twice", twice)


def check_names(where: str, given: dict[str, Any], expected: list[str]) -> None:
    """Refuses an object that has other members than those expected."""
    for name in expected:
        if name not in given:
            refuse(where, f"an entry for {name!r}", sorted(given))
    for name in given:
        if name not in expected:
            refuse(where, f"only {expected}", name)
