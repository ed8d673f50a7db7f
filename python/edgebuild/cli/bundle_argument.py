"""Commands that hand a bundle to the runner it carries: verify, run, bench, tune and prepare take what edgerun takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgebuild.cli import output
from edgebuild.cli.group import COMMANDS
from edgebuild.errors import BundleError, IncompatibleError, UsageError

if TYPE_CHECKING:
    from edgebuild.bundle.reader import Bundle
    from edgebuild.devices.emulator import Emulator


_ON_THE_BOARD = {"tune": "its times say nothing about the board", "prepare": "what it makes holds where it is made"}
"""Commands that an emulator is no use for, and why."""


def open_bundle(path: str) -> "Bundle":
    """The bundle at ``path``; structure and manifest are checked."""
    from edgebuild.bundle.reader import Bundle

    try:
        return Bundle.open(path)
    except BundleError:
        kind = _model_kind(path)
        if kind is None:
            raise
        msg = f"{path}: expected a bundle (.edge, or its folder), got a model ({kind})"
        raise UsageError(msg, hint=f"build it first: edgebuild --target x86-64 {path}") from None


def _model_kind(path: str) -> str | None:
    """What kind of model a file is that was taken for a bundle; None: it is none."""
    from edgebuild.errors import EdgebuildError
    from edgebuild.model.identify import identify

    try:
        return identify(Path(path)).kind.value if Path(path).is_file() else None
    except EdgebuildError:
        return None


def run_runner(path: str, command: str, arguments: Sequence[str]) -> int:
    """Runs ``command`` of the bundle's own runner, which writes to our stdout and stderr; returns its exit code.

    A bundle for another architecture, or for CPU features that this machine lacks, is run under the emulator, and that is said
    on stderr.

    Raises:
        BundleError: The bundle or its runner is damaged, or it has none.
        IncompatibleError: This machine can't run it, and there is no emulator for it here.
    """
    from edgebuild.bundle.unpacked import drop_damaged_copy
    from edgebuild.devices.local import query_edgerun, run_edgerun, why_bundle_not_here

    bundle = open_bundle(path)
    foreign = why_bundle_not_here(bundle)
    emulator = None if foreign is None else _emulator_for(bundle, path, command, foreign)
    if command == "verify" and bundle.is_archive:
        # The runner will check the unpacked copy, which may be an earlier and sound one of the same id.
        bundle.verify_files()
        drop_damaged_copy(bundle)
    if emulator is not None and command == "bench" and "--json" in arguments:  # who reads only this must see it too
        words = [word for word in arguments if word != "--json"]

        def bench() -> int:
            answer = query_edgerun(bundle, [command, *words], emulator=emulator)
            output.print_json({**answer, "emulator": emulator.to_json()})
            return 0

        return _in_a_sound_copy(bundle, bench)
    return _in_a_sound_copy(bundle, lambda: run_edgerun(bundle, [command, *arguments], emulator=emulator, called=path))


def _emulator_for(bundle: "Bundle", path: str, command: str, foreign: str) -> "Emulator":
    """The emulator that runs a bundle that this machine can't; downloads nothing. ``foreign``: why it can't."""
    from edgebuild.cache import Cache
    from edgebuild.devices.emulator import EVERY_FEATURE, board_of_target, fetch_command, find_emulator, is_emulated
    from edgebuild.devices.local import can_run
    from edgebuild.errors import ToolError
    from edgebuild.machine import machine_arch

    target = bundle.manifest.target
    here = foreign if can_run(target.arch) else f"this machine is {machine_arch()}"
    told = f"{path} is built for {target.name} ({target.arch}), {here}"
    unpack = f"tar xf {bundle.path.name}, then " if bundle.is_archive else ""
    if command in _ON_THE_BOARD:
        msg = f"{told}: {_ON_THE_BOARD[command]}"
        raise IncompatibleError(msg, hint=f"on the board: {unpack}bin/edgerun {command}")
    if not is_emulated(target.arch):
        msg = f"{told}, and no emulator for it is known"
        raise IncompatibleError(msg, hint=f"on the board: {unpack}bin/edgerun {command}")
    wanted = {feature for variant in bundle.manifest.variants for feature in variant.requires.cpu_features}
    board = board_of_target(target.name, target.arch, wanted)
    # The system that the build took; for a board that is not known here the oldest that serves: on any, if it brings its C library.
    floors = ["2.28" if target.loader else variant.requires.glibc or "2.28" for variant in bundle.manifest.variants]
    glibc = board.glibc or max(floors, key=lambda text: [int(part) for part in text.split(".")])
    try:
        emulator = find_emulator(target.arch, board.cpu, glibc, Cache.default())
    except ToolError as error:
        msg = f"{told}, and {error.message}"
        get = error.hint or f"`{fetch_command(board.target)}` gets an emulator"
        raise IncompatibleError(msg, hint=f"{get}; on the board: {unpack}bin/edgerun {command}") from error
    note = f"note: run under {emulator}, with libraries of {emulator.system}"
    if not board.known:
        which = "a CPU that can do everything" if board.cpu == EVERY_FEATURE else "the plainest CPU"
        note += f"; the target {target.name} is not known here, so this is {which}"
    if command == "bench":
        note += "; times and memory are the emulator's, NOT the board's"
    output.echo(note, err=True)
    return emulator


def _in_a_sound_copy(bundle: "Bundle", run: Callable[[], int]) -> int:
    """What ``run`` gives; once more if it fails over a damaged copy in the cache, which the sound archive then replaces."""
    from edgebuild.bundle.unpacked import drop_damaged_copy

    try:
        code = run()
    except BundleError:
        if not drop_damaged_copy(bundle):
            raise
    else:
        if code != BundleError.exit_code or not drop_damaged_copy(bundle):
            return code
    output.echo("note: the cache's copy of the bundle was damaged; it is unpacked anew", err=True)
    return run()


def input_options() -> list[click.Option]:
    """Where the inputs of one inference come from, as edgerun takes it."""
    return [
        click.Option(["--inputs"], metavar="IN.npz", help="Inputs by name: a .npz file, or a folder of .npy and .bin."),
        click.Option(["--input"], multiple=True, metavar="NAME=FILE", help="One .npy or raw file."),
        click.Option(["--shape"], multiple=True, metavar="NAME=DIMS", help="Shape of a raw file: x=1,3,224,224."),
    ]


def runner_command(
    name: str, options: Sequence[click.Option], *, choosing: bool = True, limited: bool = True
) -> click.Command:
    """The command ``name``: a bundle, its own ``options``, those that choose a variant if it is ``choosing`` one, and those of all.

    ``limited``: Whether its steps may be given a time limit.
    """
    choice: list[click.Parameter] = [
        click.Option(["--backend"], metavar="B", help="Only variants of this backend."),
        click.Option(["--variant"], metavar="V", help="Only this variant."),
        click.Option(["--no-fallback"], is_flag=True, help="Fail if the first variant can't run here."),
        click.Option(["--option"], multiple=True, metavar="NAME=VALUE", help="Override an option of the variant."),
        click.Option(["--no-tuning"], is_flag=True, help="Try variants in the target's order, whatever `tune` kept."),
    ]
    common: list[click.Parameter] = [
        click.Option(["--state-dir"], metavar="DIR", help="Where `tune` and `prepare` keep what they made."),
        *([_deadline()] if limited else []),
        click.Option(["--json"], is_flag=True, help="Print one JSON object and nothing else on stdout."),
        click.Option(["-v", "--verbose"], is_flag=True, help="Say more; show the traceback of an error."),
    ]
    command = click.Command(
        name,
        params=[
            click.Argument(["bundle"], metavar="BUNDLE", type=click.Path()),
            *options,
            *(choice if choosing else ()),
            *common,
        ],
        help=COMMANDS[name],
    )
    command.callback = _callback(name, command)
    return command


def _deadline() -> click.Option:
    return click.Option(["--deadline"], metavar="SECONDS", type=float, help="Limit of loading, and of each inference.")


def _callback(name: str, command: click.Command) -> Callable[..., int]:
    def callback(bundle: str, **values: Any) -> int:
        return run_runner(bundle, name, _arguments(command, values))

    return callback


def _arguments(command: click.Command, values: Mapping[str, Any]) -> list[str]:
    """The options as edgerun is told them: one word each, so that no value can be taken for a flag."""
    words: list[str] = []
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        flag, value = parameter.opts[-1], values[str(parameter.name)]
        if parameter.is_flag:
            words += [flag] if value else []
        elif value is not None:
            words += [f"{flag}={item}" for item in (value if parameter.multiple else [value])]
    return words
