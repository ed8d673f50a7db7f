"""``edgebuild doctor``: what is there, what is missing, and how to get it. Changes nothing but with ``--fetch``."""

from typing import TYPE_CHECKING

import click

from edgebuild.cli import output
from edgebuild.cli.options import TargetName, common
from edgebuild.errors import ToolError

if TYPE_CHECKING:
    from edgebuild.cli.checks import Check

SCHEMA = "edgebuild.doctor/1"
_MARKS = {"ok": ("ok", "green"), "missing": ("MISSING", "red"), "absent": ("absent", "yellow")}


@click.command(name="doctor")
@click.option("--target", type=TargetName(), metavar="T", help="Also what building for this board needs.")
@click.option(
    "--fetch", is_flag=True, help="Download and compile what the target needs, so that builds need no network."
)
@common
def command(target: str | None, fetch: bool, as_json: bool, verbose: bool) -> int:
    """Show what is there, what is missing and how to get it."""
    from edgebuild.cli import checks
    from edgebuild.targets import load_target, target_argument

    spec = load_target(target) if target is not None else None
    if fetch:
        from edgebuild.cli.progress import show_progress

        with show_progress(silent=as_json, verbose=verbose) as progress:
            checks.fetch(spec or load_target("host"), progress)
    found = checks.machine_checks() + (checks.target_checks(spec) if spec is not None else [])
    found = checks.without_compilers(found)
    missing = [check for check in found if check.state == "missing"]
    code = ToolError.exit_code if missing else 0
    if as_json:
        output.print_json(
            {
                "schema": SCHEMA,
                "target": spec.name if spec is not None else None,
                "checks": [vars(check) for check in found],
                "exit_code": code,
            }
        )
        return code
    _show(found)
    output.echo()
    if missing:
        output.echo(f"  {len(missing)} of {len(found)} are missing: {', '.join(check.name for check in missing)}")
    elif spec is not None and any(check.state == "absent" and checks.FIRST_BUILD in check.get for check in found):
        output.echo(f"  The first build for {spec.name} gets what is absent. To get it now:")
        output.echo(f"    edgebuild doctor --target {target_argument(spec)} --fetch")
    else:
        where = f" for {spec.name}" if spec is not None else ""
        output.echo(f"  Everything that building{where} needs is here.")
    return code


def _show(found: "list[Check]") -> None:
    rows = []
    for check in found:
        text = check.found if check.state == "ok" else f"{check.found}; {check.get}" if check.found else check.get
        rows.append((_MARKS[check.state][0], check.name, check.needed_for, text))
    lines = output.table(("", "WHAT", "FOR", "FOUND"), rows)
    for line in lines:
        for mark, color in _MARKS.values():
            if line.startswith(f"  {mark} "):
                line = f"  {output.style(mark, fg=color)}{line[2 + len(mark) :]}"
                break
        output.echo(line)
