"""``edgebuild run``: one inference on arrays from files, by the runner that the bundle carries."""

import click

from edgebuild.cli.bundle_argument import runner_command

command = runner_command(
    "run",
    [
        click.Option(["--inputs"], metavar="IN.npz", help="Inputs by name: a .npz file, or a folder of .npy and .bin."),
        click.Option(["--outputs"], metavar="OUT.npz", help="Where outputs go: a .npz file, or a folder."),
    ],
)
