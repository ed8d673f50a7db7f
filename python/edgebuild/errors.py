"""Every exception that edgebuild raises on purpose, each with the exit code of the command line.

A message is one line: what happened, where, what was expected and what came. ``hint`` says what to do next. The command
line prints both and exits with ``exit_code``; nothing here ever ends in a traceback for the user.
"""

from typing import ClassVar


class EdgebuildError(Exception):
    """Base of all errors below.

    Args:
        message: What, where, expected and got, in one line.
        hint: What to do next, in one line, if there is something to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:  # the hint survives a trip between processes
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[EdgebuildError], message: str, hint: str | None) -> EdgebuildError:
    return kind(message, hint=hint)


class InternalError(EdgebuildError):
    """A bug of edgebuild's own."""

    exit_code = 1


class UsageError(EdgebuildError):
    """A flag, an argument or a configuration file (also a target file) is wrong."""

    exit_code = 2


class CalibrationError(UsageError):
    """Calibration data can't be used: absent, empty, NaN, or a wrong name, dtype or shape; names tensor and batch."""


class BundleError(EdgebuildError):
    """A bundle's bytes are not what its manifest or the format says."""

    exit_code = 3


class SignatureError(EdgebuildError):
    """Inputs do not fit the model: name, dtype, rank, size, count."""

    exit_code = 4


class IncompatibleError(EdgebuildError):
    """The bundle is sound, but not for this machine, version or target."""

    exit_code = 5


class GateError(EdgebuildError):
    """A result is outside its tolerance or budget: parity, goldens, accuracy, speed, size."""

    exit_code = 6


class DeviceError(EdgebuildError):
    """A device can't be reached or does not answer."""

    exit_code = 7


class ResourceError(EdgebuildError):
    """Disk, memory or descriptors ran out."""

    exit_code = 8


class ModelError(EdgebuildError):
    """A model can't be loaded or exported."""

    exit_code = 9


class ToolError(EdgebuildError):
    """The environment lacks or fails something: a tool, a package, a download, a compiler, an emulator."""

    exit_code = 10


class DeadlineError(EdgebuildError):
    """A time limit passed."""

    exit_code = 11


EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C."""


class CancelledError(EdgebuildError):
    """A run was stopped by its ``Cancellation``."""

    exit_code = EXIT_INTERRUPTED


ERRORS_BY_EXIT_CODE: dict[int, type[EdgebuildError]] = {
    kind.exit_code: kind
    for kind in (
        InternalError,
        UsageError,
        BundleError,
        SignatureError,
        IncompatibleError,
        GateError,
        DeviceError,
        ResourceError,
        ModelError,
        ToolError,
        DeadlineError,
        CancelledError,
    )
}
"""The exception class of each exit code, for errors that come from another process; of a code that has two, the general one."""
