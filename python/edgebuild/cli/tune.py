"""``edgebuild tune``: measures the variants on this machine with the runner that the bundle carries, and keeps their order."""

import click

from edgebuild.cli.bundle_argument import input_options, runner_command

command = runner_command(
    "tune",
    [
        click.Option(["--threads"], metavar="LIST", help="Thread counts to tune for: 1,4,default."),
        click.Option(["--seconds"], metavar="S", type=float, help="How long to measure, each thread count."),
        *input_options(),
    ],
    choosing=False,
)
