"""Objects of the user's own code, named on the command line as ``package.module:attribute``."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from edgebuild.errors import EdgebuildError, UsageError
from edgebuild.model.resolve import last_line

_MOST_NAMES = 10


def import_attribute(
    text: str, search_path: Sequence[str], *, option: str, noun: str, example: str, error: type[EdgebuildError]
) -> Any:
    """Imports what ``package.module:attribute`` names.

    Args:
        text: E.g. ``mynet.models:small_cnn``.
        search_path: Folders put in front of ``sys.path`` for the import.
        option: The option that named it, for messages, e.g. "--model".
        noun: What the attribute should be, e.g. "factory".
        example: A text that is right, for messages.
        error: Raised if it can't be imported.

    Raises:
        UsageError: The text does not have this form.
    """
    package, colon, attribute = text.partition(":")
    if not colon or not package or not attribute:
        msg = f"{option} '{text}': expected package.module:{noun}"
        raise UsageError(msg, hint=f"for example {option} {example}")
    with searching(search_path):
        try:
            found: Any = importlib.import_module(package)
        except ModuleNotFoundError as problem:
            where = ", ".join(search_path) or "the current sys.path"
            msg = f"{option} {text}: module '{problem.name}' was not found (searched: {where})"
            raise error(msg, hint="run from the folder that holds it, or install it") from None
        except Exception as problem:  # the user's code may raise anything
            msg = f"{option} {text}: importing {package} failed: {type(problem).__name__}: {last_line(problem)}"
            raise error(msg, hint=f"fix the module; python -c 'import {package}' shows the whole error") from None
        for part in attribute.split("."):
            if not hasattr(found, part):
                msg = f"{option} {text}: {package} has no '{part}'"
                raise error(msg, hint=_what_it_has(found, part))
            found = getattr(found, part)
    return found


def _what_it_has(found: Any, wanted: str) -> str:
    """The nearest name, and the callables that a module (or class) has of its own; not what it imported."""
    own = [
        name
        for name, value in sorted(getattr(found, "__dict__", {}).items())
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == getattr(found, "__name__", None)
    ]
    near = get_close_matches(wanted, own, 1)
    rest = len(own) - _MOST_NAMES
    names = ", ".join(own[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
    return f"did you mean {near[0]}?" if near else f"it has {names or 'nothing of its own that can be called'}"


@contextmanager
def searching(paths: Sequence[str]) -> Iterator[None]:
    """Puts folders in front of ``sys.path`` for as long as the block runs."""
    added = [path for path in paths if path not in sys.path]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for path in added:
            if path in sys.path:
                sys.path.remove(path)
