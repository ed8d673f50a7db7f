"""``edgebuild prepare``: makes on this machine what variants need, such as TensorRT's plans, with the runner that the bundle carries."""

import click

from edgebuild.cli.bundle_argument import runner_command

command = runner_command(
    "prepare",
    [
        click.Option(["--backend"], metavar="B", help="Only variants of this backend."),
        click.Option(["--variant"], metavar="V", help="Only this variant."),
        click.Option(["--option"], multiple=True, metavar="NAME=VALUE", help="Engine option; runs need the same."),
        click.Option(["--all"], is_flag=True, help="Every variant, not only the first that succeeds."),
        click.Option(["--anew"], is_flag=True, help="Make it anew, whatever is there."),
    ],
    choosing=False,
    limited=False,
)
