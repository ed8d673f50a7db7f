"""``edgebuild bench``: latency and throughput here, by the runner that the bundle carries."""

import click

from edgebuild.cli.bundle_argument import input_options, runner_command

command = runner_command(
    "bench",
    [
        *input_options(),
        click.Option(["--threads"], metavar="N", type=click.IntRange(1), help="Threads of one inference."),
        click.Option(["--concurrency"], metavar="N", type=click.IntRange(1), help="Inferences at a time."),
        click.Option(["--seconds"], metavar="S", type=float, help="How long to measure."),
        click.Option(["--warmup"], metavar="N", type=click.IntRange(0), help="Inferences before measuring."),
        click.Option(["--profile"], is_flag=True, help="Also the time of every node."),
    ],
)
