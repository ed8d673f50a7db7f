"""Objects of the user's own code, named on the command line as ``package.module:attribute``."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgebuild.errors import EdgebuildError, UsageError
from edgebuild.model.resolve import last_line


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
                names = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
                msg = f"{option} {text}: {package} has no '{part}'"
                raise error(msg, hint=f"it has {', '.join(sorted(names)[:10]) or 'nothing public'}")
            found = getattr(found, part)
    return found


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
