"""Where a bundle is proved: on this machine, under an emulator, or nowhere, and then why and what to do about it."""

from dataclasses import dataclass

from edgebuild.cache import Cache
from edgebuild.devices.emulator import Emulator, UnknownCpuError, fetch_command, find_emulator
from edgebuild.devices.local import cpu_model, why_not_here
from edgebuild.errors import EdgebuildError, IncompatibleError, ResourceError, UsageError
from edgebuild.report import Progress
from edgebuild.targets import TargetSpec, target_argument

CHOICES = ("native", "emulator", "none")
"""What ``--verify`` takes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the programs of a target are run.

    Args:
        kind: "native", "emulator", or None: nowhere.
        emulator: That of kind "emulator".
        reason: Why nowhere, in one line.
        hint: What to do about it, "" if it was asked for.
    """

    kind: str | None
    emulator: Emulator | None = None
    reason: str = ""
    hint: str = ""

    @property
    def identity(self) -> list[str]:
        """What a result that was got there holds for."""
        return self.emulator.identity if self.emulator else [cpu_model()]


HERE = Place(kind="native")


def choose_place(target: TargetSpec, verify: str | None, cache: Cache, progress: Progress) -> Place:
    """Where a bundle for this target is proved; downloads an emulator that is not there yet.

    Args:
        target: The board.
        verify: One of ``CHOICES``; None: native where that goes, else under an emulator if one can be had.
        cache: Where a downloaded emulator is kept.
        progress: Hears of the download.

    Raises:
        UsageError: ``verify`` is none of them.
        IncompatibleError: "native" was asked for, and this machine can't run the target's programs.
        ToolError: "emulator" was asked for, and there is none that fits.
        ResourceError: The disk is full.
    """
    if verify is not None and verify not in CHOICES:
        msg = f"verify: expected one of {', '.join(CHOICES)}, got {verify!r}"
        raise UsageError(msg)
    if verify == "none":
        return Place(kind=None, reason="--verify none was given")
    foreign = why_not_here(target.soc.arch, target.soc.features)
    if foreign is None and verify != "emulator":
        return HERE
    if foreign is None and not target.portable:
        msg = f"--verify emulator: {target.name} is this very machine, which no emulator stands for"
        raise IncompatibleError(msg, hint="leave --verify out: the bundle is run here")
    if verify == "native":
        msg = f"--verify native: {foreign}"
        raise IncompatibleError(msg, hint="leave --verify out: it is then run under an emulator")
    progress.stage("emulator", target.soc.cpu)
    try:
        emulator = find_emulator(target.soc.arch, target.soc.cpu, target.os.glibc, cache, fetch=True, progress=progress)
    except ResourceError:
        raise
    except EdgebuildError as error:
        hint = f"{error.hint}; then {_get(target)}" if error.hint else _get(target)
        if isinstance(error, UnknownCpuError):
            hint = error.hint or ""
        if verify == "emulator":
            raise type(error)(error.message, hint=hint) from error
        return Place(kind=None, reason=f"{foreign}, and {error.message}", hint=hint)
    return Place(kind="emulator", emulator=emulator)


def _get(target: TargetSpec) -> str:
    return f"`{fetch_command(target_argument(target))}` gets an emulator"
