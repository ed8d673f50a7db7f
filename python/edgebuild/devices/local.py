"""This machine as a device: runs a bundle with the very runner that it carries, also under an emulator."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import content_key
from edgebuild.devices.child import Hear, run_child
from edgebuild.devices.emulator import Emulator
from edgebuild.errors import (
    ERRORS_BY_EXIT_CODE,
    BundleError,
    DeadlineError,
    EdgebuildError,
    IncompatibleError,
    ResourceError,
    ToolError,
)
from edgebuild.machine import machine_arch, this_machine

_GRACE_S = 30.0
_LEAVE_OUT = "--verify none leaves the proof out; then run bin/edgerun verify on the board"


def can_run(arch: str) -> bool:
    """Whether programs of this architecture run here without an emulator."""
    machine = machine_arch()
    return arch == machine or (arch == "armv7l" and machine == "aarch64")


def why_not_here(arch: str, features: Sequence[str] = ()) -> str | None:
    """Why a program for this architecture and these CPU features can't run on this machine; None: it can."""
    if not can_run(arch):
        return f"this machine can't run {arch} programs"
    lacking = sorted(set(features) - set(this_machine().features))
    return f"this machine's CPU lacks {', '.join(lacking)}" if lacking else None


def why_bundle_not_here(bundle: Bundle) -> str | None:
    """Why no variant of a bundle can run on this machine, without an emulator; None: one can.

    The build's proof and the commands that use a bundle ask this alike: what a build emulated is emulated later, too.
    """
    arch = bundle.manifest.target.arch
    asked = sorted((variant.requires.cpu_features for variant in bundle.manifest.variants), key=len)
    reasons = [why_not_here(arch, features) for features in asked]
    return reasons[0] if reasons and all(reasons) else None


def cpu_model() -> str:
    """The CPU's model name with its feature flags' hash: what a proof on this machine holds for."""
    machine = this_machine()
    return f"{machine.cpu_name} {content_key(list(machine.features))[:12]}"


def run_edgerun(
    bundle: Bundle, arguments: Sequence[str], *, emulator: Emulator | None = None, called: str | None = None
) -> int:
    """Runs the bundle's edgerun on the bundle with this process's input and output; returns its exit code.

    Args:
        bundle: Opened bundle.
        arguments: Command and flags without the bundle, e.g. ``["verify", "--json"]``.
        emulator: What runs the board's programs; None: this machine itself.
        called: How messages call the bundle, since the runner sees its copy in the cache; None: by its own path.

    Raises:
        IncompatibleError: The runner is for another architecture, or used an instruction that the emulated CPU lacks.
        BundleError: The bundle has no runner, or a damaged one.
        ToolError: The runner does not start, or a signal killed it.
        ResourceError: It was killed, as the kernel does when memory runs out.
    """
    command = _command(bundle, arguments, emulator)
    named = {"EDGEBUILD_BUNDLE_NAME": called or str(bundle.path)}
    try:
        code = subprocess.run(command, check=False, env=_environment(emulator, named)).returncode
    except OSError as error:
        raise _not_started(error, emulator) from error
    if code < 0:
        raise _killed(-code, arguments[0], emulator)
    return code


def query_edgerun(
    bundle: Bundle,
    arguments: Sequence[str],
    *,
    deadline_s: float | None = None,
    steps: int = 1,
    busy_s: float = 0.0,
    environment: Mapping[str, str] | None = None,
    emulator: Emulator | None = None,
    limit_s: float | None = None,
    hear: Hear | None = None,
    total: int = 0,
) -> Mapping[str, Any]:
    """Runs the bundle's edgerun with ``--json`` and returns the object that it prints.

    Args:
        bundle: Opened bundle.
        arguments: Command and flags without the bundle.
        deadline_s: Limit of loading a variant and of each inference, in seconds, as ``--deadline`` of edgerun; None: none.
        steps: Loads and inferences that the command may do one after another. It ends itself when one is over its limit; should it
            not, it is killed when all of them together must be over.
        busy_s: Seconds that it takes by its own choice, beyond those (``--seconds`` of bench).
        environment: Variables on top of this process's.
        emulator: What runs the board's programs; None: this machine itself.
        limit_s: It is killed after so many seconds, whatever it is at; None: only as ``deadline_s`` says.
        hear: Hears how many inferences are done.
        total: Of how many, until the runner says it.

    Raises:
        EdgebuildError: edgerun failed; the class is that of its exit code, the message its own.
        DeadlineError: A step took longer than ``deadline_s`` seconds.
    """
    limit = [] if deadline_s is None else ["--deadline", str(deadline_s)]
    command = _command(bundle, [*arguments, *limit, "--json"], emulator)
    limits = [
        value for value in (limit_s, None if deadline_s is None else steps * deadline_s + busy_s + _GRACE_S) if value
    ]
    try:
        done = run_child(command, _environment(emulator, environment or {}), min(limits, default=None), hear, total)
    except subprocess.TimeoutExpired as error:
        if emulator is not None:
            msg = f"`{arguments[0]}` of the bundle's runner under {emulator} took longer than {error.timeout:.0f} s"
            raise DeadlineError(msg, hint=_LEAVE_OUT) from None
        msg = f"{' '.join(arguments)} of the bundle's runner hung, with a limit of {deadline_s} s for each step"
        raise DeadlineError(msg) from None
    except OSError as error:
        raise _not_started(error, emulator) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.returncode < 0:
            raise _killed(-done.returncode, arguments[0], emulator) from None
        who = "the bundle's runner" if emulator is None else f"the bundle's runner under {emulator}"
        msg = f"{who} answered {done.stdout[:80]!r} to `{arguments[0]}`, expected one JSON object"
        raise ToolError(msg, hint=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else None) from None
    if done.returncode != 0:
        kind = ERRORS_BY_EXIT_CODE.get(done.returncode, EdgebuildError)
        said = answer.get("error") or {}
        message = said.get("message") or f"`{arguments[0]}` of the bundle's runner ended with {done.returncode}"
        # Where the cache unpacked the bundle to says nothing to the user.
        raise kind(message.replace(f"{bundle.directory()}: ", ""), hint=said.get("hint"))
    return answer


def _environment(emulator: Emulator | None, more: Mapping[str, str]) -> dict[str, str]:
    return {**(os.environ if emulator is None else emulator.environment()), **more}


def _not_started(error: OSError, emulator: Emulator | None) -> ToolError:
    if emulator is None:
        return ToolError(f"the bundle's runner does not start: {error.strerror}")
    return ToolError(f"the emulator {emulator.program} does not start: {error.strerror}")


def _killed(number: int, command: str, emulator: Emulator | None) -> EdgebuildError:
    name = signal.Signals(number).name
    if emulator is None:
        msg = f"the bundle's runner was killed by {name} in `{command}`"
    elif number == signal.SIGILL:
        # The emulator ends as the emulated program does, so this is the program's fault, or the target file's.
        msg = f"the bundle's runner used an instruction that {emulator.cpu} lacks ({name} in `{command}` under {emulator})"
        return IncompatibleError(msg, hint="its engine or the target's cpu_flags are for a newer CPU")
    else:
        msg = f"the bundle's runner, or the emulator itself, was killed by {name} in `{command}` under {emulator}"
    if number == signal.SIGKILL:
        return ResourceError(msg, hint="probably memory ran out: free some")
    return ToolError(msg, hint=None if emulator is None else _LEAVE_OUT)


def _command(bundle: Bundle, arguments: Sequence[str], emulator: Emulator | None) -> list[str]:
    arch = bundle.manifest.target.arch
    if emulator is not None and emulator.arch != arch:
        msg = f"the bundle is for {arch}, the emulator is for {emulator.arch}"
        raise IncompatibleError(msg)
    if emulator is None and not can_run(arch):
        msg = f"the bundle is for {arch}, this machine is {machine_arch()}"
        raise IncompatibleError(msg, hint="copy it to the board, unpack it there with `tar xf`, and use bin/edgerun")
    program = bundle.edgerun  # held to its hash: a damaged program must not be started
    if program is None:
        msg = f"{bundle.path} holds no runner (bin/edgerun)"
        raise BundleError(msg, hint="build it again")
    words = [str(program), arguments[0], str(bundle.directory()), *arguments[1:]]
    loader = bundle.manifest.target.loader
    if emulator is not None and loader is not None:
        # On a board the runner starts itself anew through the bundle's loader; an emulated program can't do that.
        words = [
            str(bundle.directory() / loader.program),
            "--inhibit-cache",
            "--library-path",
            str(bundle.directory() / "lib"),
            *words,
        ]
    return words if emulator is None else emulator.command(words)
