"""The group of commands: loads a command's module only when it is run, and implies ``build``."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from edgebuild.cli.output import nearest
from edgebuild.errors import UsageError

COMMANDS: Mapping[str, str] = {
    "build": "Build a bundle for a target from a model.",
    "targets": "List the targets, or show one.",
    "inspect": "Show what a bundle holds.",
    "verify": "Check every hash of a bundle and run its goldens.",
    "run": "Run a bundle's model on arrays from files.",
    "tune": "Measure a bundle's variants; the fastest is then tried first.",
    "prepare": "Make on this machine what variants need before they run.",
    "explain": "Show what a build did, and why INT8 loses accuracy.",
    "bench": "Measure a bundle's latency and throughput here.",
    "doctor": "Show what is there, what is missing and how to get it.",
    "cache": "Show or clean the cache.",
    "runtime": "Pack engine libraries for thin bundles.",
    "completion": "Print the completion script of a shell.",
}
"""Commands in the order of the help, each with its line there (equal to its own help; tested)."""

_LEADING = ("-v", "--verbose", "--json")


class CommandGroup(click.Group):
    """Commands by name; each lies in ``edgebuild.cli.NAME`` as ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"edgebuild.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would load every command for its help line.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            args = ["--help"]
        elif not ctx.resilient_parsing:
            args = _imply_build(args)
        elif args and args[0] not in COMMANDS and args[0] not in ("-h", "--help", "--version"):
            args = ["build", *args]  # what is completed is a build too
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        build = self.get_command(ctx, "build") if incomplete.startswith("-") else None
        if build is not None:
            known = {item.value for item in found}
            implied = build.shell_complete(click.Context(build, parent=ctx), incomplete)
            found += [item for item in implied if item.value not in known]
        return found


def _imply_build(args: list[str]) -> list[str]:
    """Puts ``build`` in front unless a command or one of the group's own options comes first."""
    leading = 0
    while leading < len(args) and args[leading] in _LEADING:
        leading += 1
    front, rest = args[:leading], args[leading:]
    if not rest:
        return args if not front else ["build", *front]
    first = rest[0]
    if first in COMMANDS:
        return [first, *front, *rest[1:]]
    if first in ("-h", "--help", "--version"):
        return rest + front
    if not first.startswith("-") and not any(c in first for c in "./:") and not Path(first).exists():
        # A word that is no file: rather a mistyped command than a model.
        near = nearest(first, COMMANDS)
        if near:
            msg = f"unknown command {first!r}"
            raise UsageError(msg, hint=f"did you mean {near}?")
    return ["build", *args]


def command_of(args: list[str]) -> str:
    """The command that ``args`` mean, for the error object of one that failed: "build" if none is named."""
    for word in args:
        if word not in _LEADING:
            return word if word in COMMANDS else "build"
    return "build"
