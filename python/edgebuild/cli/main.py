"""Entry point: runs a command and turns whatever it raises into one line and an exit code (DESIGN.md, section 7)."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

import click

from edgebuild.cli import output
from edgebuild.cli.group import COMMANDS, CommandGroup, command_of
from edgebuild.errors import EXIT_INTERRUPTED, EdgebuildError, InternalError, UsageError


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`build` is implied: edgebuild --target x86-64 model.pt",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=output.print_version,
    help="Show the version.",
)
def cli() -> None:
    """Turn a PyTorch model into a bundle that runs on an edge board, and prove that it does."""


def _end_in_order_on_sigterm() -> None:
    """Lets SIGTERM unwind the stack, so that children are ended and temporary folders removed; exit code 143."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None: those of this process.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = given[: given.index("--")] if "--" in given else given
    verbose = "-v" in flags or "--verbose" in flags
    # The command whose schema an error object names; None: no object is asked for.
    command_json = command_of(given) if "--json" in flags else None
    output.prepare_streams()
    _end_in_order_on_sigterm()
    try:
        code = cli.main(args=given, prog_name="edgebuild", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        return _stop_writing()
    except SystemExit as error:
        wrapped = getattr(sys.stdout, "wrapped", None)
        if wrapped is not None:  # click's own way to end on a broken pipe
            sys.stdout = wrapped
            return _stop_writing()
        raise error from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
            return _report_bug(command_json, error, verbose=verbose)
        _stop_writing()
        return _report(None, f"can't write to stdout: {error.strerror}", "free some space, or write elsewhere", 8)
    except (KeyboardInterrupt, click.Abort):
        return _report(command_json, "interrupted", None, EXIT_INTERRUPTED)
    except click.ClickException as error:
        message, hint = _explain(error)
        return _report(command_json, message, hint, UsageError.exit_code)
    except EdgebuildError as error:
        if verbose and not isinstance(error, UsageError):  # where a command line is wrong, its words say all
            traceback.print_exc()
        message = error.message
        if isinstance(error, InternalError):
            message = f"internal error: {message}, please report"
        return _report(command_json, message, error.hint, error.exit_code)
    except MemoryError:
        return _report(command_json, "out of memory", "close other programs, or build on a larger machine", 8)
    except Exception as error:
        return _report_bug(command_json, error, verbose=verbose)


def _stop_writing() -> int:
    """Whoever read our output has seen enough, or can't take it. Nothing may be flushed at exit any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _report_bug(command: str | None, error: Exception, *, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = f"internal error: {' '.join(what.split())}, please report"
    return _report(command, message, None if verbose else "-v shows the traceback", InternalError.exit_code)


def _report(command: str | None, message: str, hint: str | None, code: int) -> int:
    output.error(message, hint)
    if command is not None:
        output.print_json(output.error_object(command, message, hint, code))
    return code


_PRECISION_HINT = (
    "the target says which precisions pay (`edgebuild targets NAME`): CPUs run float32, and INT8 with --int8 --calib DATA; "
    "float16 gains nothing there (docs/quantization.md)"
)
_OF_OTHERS = dict.fromkeys(("--precision", "--fp16", "--float16", "--half", "--bf16", "--bfloat16"), _PRECISION_HINT)
"""Options of other tools that ours has no need of, each with what to do here."""


def _explain(error: click.ClickException) -> tuple[str, str | None]:
    """Click's own errors in our words: what is wrong, and the nearest name or where help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "edgebuild"
    hint: str | None = f"`{command} --help` shows all options"
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and isinstance(error.ctx.command, click.Group):
        names = error.ctx.command.list_commands(error.ctx)
        return f"{command}: no command is given", f"it has {', '.join(f'`{command} {name}`' for name in names)}"
    if isinstance(error, click.NoSuchOption):
        message = f"unknown option {error.option_name}"
        if error.option_name in _OF_OTHERS:
            return message, _OF_OTHERS[error.option_name]
        known = _options_of(context)
        near = output.nearest(error.option_name, error.possibilities or known) or output.nearest(
            error.option_name, known
        )
        return message, f"did you mean {near}?" if near else hint
    if isinstance(error, click.MissingParameter):
        parameter = error.param
        if parameter is None:
            return error.format_message().rstrip("."), hint
        kind = "argument" if isinstance(parameter, click.Argument) else "option"
        return f"missing {kind} {_parameter_name(parameter)}", hint
    if isinstance(error, click.BadOptionUsage):
        return _sentence(error.message.replace(f"'{error.option_name}'", error.option_name)).removeprefix(
            "option "
        ), hint
    if isinstance(error, click.BadParameter) and error.param is not None and context is not None:
        message = f"{_parameter_name(error.param)}: {_sentence(error.message)}"
        return message, hint
    if isinstance(error, click.NoSuchCommand):  # of a group below ours; ours implies `build`
        near = output.nearest(error.command_name, error.possibilities or [])
        return f"unknown command {error.command_name!r}", f"did you mean {near}?" if near else hint
    return _sentence(error.format_message()), hint


def _parameter_name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return (parameter.metavar or parameter.human_readable_name).strip("[]").upper()
    return max(parameter.opts, key=len)


def _sentence(text: str) -> str:
    """Click's sentence as a clause: one line, no full stop, no capital letter in front."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _options_of(context: click.Context | None) -> list[str]:
    if context is None:
        return []
    names: list[Any] = [option for parameter in context.command.get_params(context) for option in parameter.opts]
    if isinstance(context.command, CommandGroup):
        names += list(COMMANDS)
    return [name for name in names if name.startswith("-")]


if __name__ == "__main__":
    sys.exit(main())
