"""This machine as a device: runs a bundle with the very runner that it carries."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from edgebuild.bundle.reader import Bundle
from edgebuild.cache import content_key
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


def cpu_model() -> str:
    """The CPU's model name with its feature flags' hash: what a proof on this machine holds for."""
    machine = this_machine()
    return f"{machine.cpu_name} {content_key(list(machine.features))[:12]}"


def run_edgerun(bundle: Bundle, arguments: Sequence[str]) -> int:
    """Runs the bundle's edgerun on the bundle with this process's input and output; returns its exit code.

    Args:
        bundle: Opened bundle.
        arguments: Command and flags without the bundle, e.g. ``["verify", "--json"]``.

    Raises:
        IncompatibleError: The runner is for another architecture.
        BundleError: The bundle has no runner, or a damaged one.
        ToolError: The runner does not start, or a signal killed it.
        ResourceError: It was killed, as the kernel does when memory runs out.
    """
    command = _command(bundle, arguments)
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        msg = f"the bundle's runner does not start: {error.strerror}"
        raise ToolError(msg) from error
    if code < 0:
        raise _killed(-code, arguments[0])
    return code


def query_edgerun(
    bundle: Bundle,
    arguments: Sequence[str],
    *,
    deadline_s: float | None = None,
    steps: int = 1,
    busy_s: float = 0.0,
    environment: Mapping[str, str] | None = None,
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

    Raises:
        EdgebuildError: edgerun failed; the class is that of its exit code, the message its own.
        DeadlineError: A step took longer than ``deadline_s`` seconds.
    """
    limit = [] if deadline_s is None else ["--deadline", str(deadline_s)]
    command = _command(bundle, [*arguments, *limit, "--json"])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, **(environment or {})},
            timeout=None if deadline_s is None else steps * deadline_s + busy_s + _GRACE_S,
        )
    except subprocess.TimeoutExpired:
        msg = f"{' '.join(arguments)} of the bundle's runner hung, with a limit of {deadline_s} s for each step"
        raise DeadlineError(msg) from None
    except OSError as error:
        msg = f"the bundle's runner does not start: {error.strerror}"
        raise ToolError(msg) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.returncode < 0:
            raise _killed(-done.returncode, arguments[0]) from None
        msg = f"the bundle's runner answered {done.stdout[:80]!r} to `{arguments[0]}`, expected one JSON object"
        raise ToolError(msg, hint=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else None) from None
    if done.returncode != 0:
        kind = ERRORS_BY_EXIT_CODE.get(done.returncode, EdgebuildError)
        said = answer.get("error") or {}
        message = said.get("message") or f"`{arguments[0]}` of the bundle's runner ended with {done.returncode}"
        # Where the cache unpacked the bundle to says nothing to the user.
        raise kind(message.replace(f"{bundle.directory()}: ", ""), hint=said.get("hint"))
    return answer


def _killed(number: int, command: str) -> EdgebuildError:
    msg = f"the bundle's runner was killed by {signal.Signals(number).name} in `{command}`"
    if number == signal.SIGKILL:
        return ResourceError(msg, hint="probably memory ran out: free some")
    return ToolError(msg)


def _command(bundle: Bundle, arguments: Sequence[str]) -> list[str]:
    arch = bundle.manifest.target.arch
    if not can_run(arch):
        msg = f"the bundle is for {arch}, this machine is {machine_arch()}"
        raise IncompatibleError(msg, hint="copy it to the board, unpack it there with `tar xf`, and use bin/edgerun")
    program = bundle.edgerun  # held to its hash: a damaged program must not be started
    if program is None:
        msg = f"{bundle.path} holds no runner (bin/edgerun)"
        raise BundleError(msg, hint="build it again")
    return [str(program), arguments[0], str(bundle.directory()), *arguments[1:]]
