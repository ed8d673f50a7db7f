"""This machine as a device: runs a bundle with the very runner that it carries."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgebuild.bundle.reader import Bundle
from edgebuild.errors import (
    ERRORS_BY_EXIT_CODE,
    BundleError,
    DeadlineError,
    EdgebuildError,
    IncompatibleError,
    ToolError,
)

_GRACE_S = 30.0


def can_run(arch: str) -> bool:
    """Whether programs of this architecture run here without an emulator."""
    machine = platform.machine()
    return arch == machine or (arch == "armv7l" and machine == "aarch64")


def cpu_model() -> str:
    """The CPU's model name with its feature flags' hash: what a proof on this machine holds for."""
    from edgebuild.cache import content_key

    name, flags = platform.machine(), ""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() in ("flags", "Features") and not flags:
                flags = value.strip()
    except OSError:
        pass
    return f"{name} {content_key(sorted(flags.split()))[:12]}"


def run_edgerun(bundle: Bundle, arguments: Sequence[str]) -> int:
    """Runs the bundle's edgerun on the bundle with this process's input and output; returns its exit code.

    Args:
        bundle: Opened bundle.
        arguments: Command and flags without the bundle, e.g. ``["verify", "--json"]``.

    Raises:
        IncompatibleError: The runner is for another architecture.
        BundleError: The bundle has no runner.
    """
    command = _command(bundle, arguments)
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        msg = f"the bundle's runner does not start: {error.strerror}"
        raise ToolError(msg) from error


def query_edgerun(
    bundle: Bundle,
    arguments: Sequence[str],
    *,
    deadline_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """Runs the bundle's edgerun with ``--json`` and returns the object that it prints.

    Args:
        bundle: Opened bundle.
        arguments: Command and flags without the bundle.
        deadline_s: Seconds after which it is killed, plus a grace.
        environment: Variables on top of this process's.

    Raises:
        EdgebuildError: edgerun failed; the class is that of its exit code, the message its own.
        DeadlineError: It took longer than ``deadline_s`` seconds.
    """
    command = _command(bundle, [*arguments, "--json"])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, **(environment or {})},
            timeout=None if deadline_s is None else deadline_s + _GRACE_S,
        )
    except subprocess.TimeoutExpired:
        msg = f"{' '.join(arguments)} of the bundle's runner took longer than {deadline_s} s"
        raise DeadlineError(msg) from None
    except OSError as error:
        msg = f"the bundle's runner does not start: {error.strerror}"
        raise ToolError(msg) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        if done.returncode < 0:
            msg = f"the bundle's runner was killed by signal {-done.returncode} in `{arguments[0]}`"
        else:
            msg = f"the bundle's runner answered {done.stdout[:80]!r} to `{arguments[0]}`, expected one JSON object"
        raise ToolError(msg, hint=done.stderr.strip().splitlines()[-1] if done.stderr.strip() else None) from None
    if done.returncode != 0 and "error" in answer:
        kind = ERRORS_BY_EXIT_CODE.get(done.returncode, EdgebuildError)
        raise kind(answer["error"]["message"], hint=answer["error"].get("hint"))
    return answer


def _command(bundle: Bundle, arguments: Sequence[str]) -> list[str]:
    arch = bundle.manifest.target.arch
    if not can_run(arch):
        msg = f"the bundle is for {arch}, this machine is {platform.machine()}"
        raise IncompatibleError(msg, hint="copy it to the board, unpack it there with `tar xf`, and use bin/edgerun")
    root = bundle.directory()
    program = root / "bin" / "edgerun"
    if not os.access(program, os.X_OK):
        msg = f"the bundle {root.name} has no runner: bin/edgerun is missing"
        raise BundleError(msg)
    return [str(program), arguments[0], str(root), *arguments[1:]]
