"""Running compilers: their output as progress while they run, and as the reason when they fail."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgebuild.errors import ToolError

_TIME_LIMIT_S = 1800
_NINJA_STEP = re.compile(r"\[(\d+)/(\d+)\]")


def run_tool(
    command: list[str], environment: dict[str, str], what: str, advance: Callable[[int, int], None] | None = None
) -> None:
    """Runs a tool to its end.

    Args:
        command: Program and arguments.
        environment: All of its environment.
        what: What the tool is for, in the words of an error: "could not WHAT: …".
        advance: Hears ninja's count of steps: done, in all.

    Raises:
        ToolError: The tool does not start, fails, or takes longer than half an hour; its output is kept in a file.
    """
    lines: list[str] = []
    try:
        # A group of its own: whatever ends this process early ends the compilers too.
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        msg = f"could not {what}: {command[0]}: {error.strerror}"
        raise ToolError(msg) from error
    late = threading.Event()

    def give_up() -> None:
        late.set()
        _kill_group(process)

    timer = threading.Timer(_TIME_LIMIT_S, give_up)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line)
                step = _NINJA_STEP.match(line)
                if step and advance:
                    advance(int(step[1]), int(step[2]))
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            _kill_group(process)
        process.wait()
    if late.is_set():
        msg = f"could not {what}: {Path(command[0]).name} took longer than {_TIME_LIMIT_S} s"
        raise ToolError(msg)
    if code != 0:
        told = [line for line in lines if "error" in line.lower()]
        reason = told[0].strip() if told else f"exit code {code}"
        with tempfile.NamedTemporaryFile("w", prefix="edgebuild-native-", suffix=".log", delete=False) as log:
            log.writelines(lines)
        msg = f"could not {what}: {reason}"
        raise ToolError(msg, hint=f"the whole log is in {log.name}")


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
