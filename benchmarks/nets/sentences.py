"""Text that every Python brings along: the first sentences of the standard library's docstrings."""

import ast
import functools
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

HELD_OUT = 1000
_ELSEWHERE = {"site-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo", "__pycache__"}
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")


def held_out() -> list[str]:
    """The 1,000 sentences to judge by; the same for the same Python version."""
    return list(_shuffled()[:HELD_OUT])


def calibration(count: int) -> list[str]:
    """``count`` sentences of which none is held out.

    Raises:
        ValueError: There are fewer.
    """
    rest = _shuffled()[HELD_OUT:]
    if count > len(rest):
        msg = f"the standard library has {len(rest)} sentences to calibrate with, {count} are wanted"
        raise ValueError(msg)
    return list(rest[:count])


@functools.cache
def _shuffled() -> tuple[str, ...]:
    # Case and marks at the end do not make a sentence another one.
    unique = {s.casefold().strip(" .!?"): s for s in sorted(_all())}
    ordered = sorted(unique.values())
    random.Random(14).shuffle(ordered)
    return tuple(ordered)


def _all() -> Iterator[str]:
    """First sentences of four words or more, of modules, classes and functions."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if _ELSEWHERE.intersection(path.relative_to(library).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old modules
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                sentence = _first_sentence(text) if text else ""
                if len(sentence.split()) >= 4:
                    yield sentence


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n", 1)[0].split())
    return _END.split(paragraph, maxsplit=1)[0]
