"""``edgebuild run``: one inference on arrays from files, by the runner that the bundle carries."""

import click

from edgebuild.cli.bundle_argument import input_options, runner_command

command = runner_command(
    "run",
    [
        *input_options(),
        click.Option(
            ["--preprocess"],
            is_flag=True,
            help="Inputs that the bundle has preprocessing for are decoded images, uint8 (H,W,C).",
        ),
        click.Option(
            ["--each"], is_flag=True, help="Inputs have one more leading axis: run once an index, stack outputs."
        ),
        click.Option(["--outputs"], metavar="OUT.npz", help="Where outputs go: a .npz file, or a folder."),
        click.Option(["--output"], multiple=True, metavar="NAME=FILE", help="One .npy or raw file."),
    ],
)
