"""``edgebuild verify``: every hash of a bundle, and its goldens, by the runner that it carries."""

import click

from edgebuild.cli.bundle_argument import runner_command

command = runner_command(
    "verify",
    [click.Option(["--all-variants"], is_flag=True, help="Fail if a variant can't run here.")],
)
