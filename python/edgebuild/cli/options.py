"""Options that several commands share."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


def common(function: F) -> F:
    """``--json`` and ``-v`` (which ``main`` looks at)."""
    function = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
    )(function)
    return click.option("-v", "--verbose", is_flag=True, help="Say more; show the traceback of an error.")(function)


class ByteSize(click.ParamType[int]):
    """A size in bytes, e.g. 40MiB, 40M (the same), 1.5GiB, 40MB (of 1,000,000), 40000000."""

    name = "size"
    _UNITS = {"": 1, "B": 1} | {
        f"{letter}{unit}": base**power
        for power, letter in enumerate("KMG", 1)
        for unit, base in (("", 1024), ("iB", 1024), ("B", 1000))
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value).strip(), re.ASCII)
        factor = match and self._UNITS.get(match[2][:1].upper() + match[2][1:])
        if not match or not factor or not (size := int(float(match[1]) * factor)):
            self.fail(f"expected a size such as 40MiB, got {value!r}", param, ctx)
        return size


def proof(function: F) -> F:
    """``--verify``, ``--max-size``, ``--toolchain``: what the runner is compiled with, and what a bundle is held to before it is written."""
    function = click.option(
        "--toolchain",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="CMake toolchain file that the runner is compiled with.",
    )(function)
    function = click.option(
        "--max-size", "max_size", type=ByteSize(), metavar="SIZE", help="Fail if the bundle is larger, e.g. 40MiB."
    )(function)
    return click.option(
        "--verify",
        type=click.Choice(["native", "emulator", "none"]),
        help="Where the bundle is run before it is written (default: here, else under an emulator).",
    )(function)


class TargetName(click.ParamType[str]):
    """A target by name, alias or path: completes the names, and is checked when the target is loaded."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgebuild.targets import targets_folder

        names = sorted(file.stem for file in targets_folder().glob("*.toml"))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
