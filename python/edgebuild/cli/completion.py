"""``edgebuild completion SHELL``: the script that a shell evaluates to complete our commands."""

import click
from click.shell_completion import get_completion_class


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None  # the choices above are click's own
    root = context.find_root()
    click.echo(kind(root.command, {}, "edgebuild", "_EDGEBUILD_COMPLETE").source())
