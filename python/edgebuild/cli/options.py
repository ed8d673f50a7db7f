"""Options that several commands share."""

from collections.abc import Callable
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


class TargetName(click.ParamType[str]):
    """A target by name, alias or path: completes the names, and is checked when the target is loaded."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgebuild.targets import targets_folder

        names = sorted(file.stem for file in targets_folder().glob("*.toml"))
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]
