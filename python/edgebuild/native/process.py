"""Running compilers: their output as progress while they run, and as the reason when they fail."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from edgebuild.errors import ResourceError, ToolError

_TIME_LIMIT_S = 1800
_MOST_WORDS = 300
_COMPILER_ERROR = re.compile(r"(?<!CMake )\b(fatal )?error: ", re.IGNORECASE)
_KILLED = re.compile(r"^(Killed|Segmentation fault|Illegal instruction|Aborted)\b")
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
        ResourceError: The tool says that the disk is full.
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
        refuse_full_disk(lines, f"could not {what}")
        reason = _reason(lines, code)
        with tempfile.NamedTemporaryFile("w", prefix="edgebuild-native-", suffix=".log", delete=False) as log:
            log.writelines(lines)
        msg = f"could not {what}: {reason}"
        raise ToolError(msg, hint=f"the whole log is in {log.name}")


def _reason(lines: Sequence[str], code: int) -> str:
    """What a failed tool said first: a compiler's error, else the whole message of CMake, else anything about an error."""
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    for number, line in enumerate(lines):
        if _COMPILER_ERROR.search(line):
            return line.strip()
        if line.startswith("CMake Error") and not any(map(_COMPILER_ERROR.search, lines)):
            indented = takewhile(lambda text: not text.strip() or text[0].isspace(), lines[number + 1 :])
            words = " ".join([line.strip(), *(text.strip() for text in indented if text.strip())])
            words = words.partition(" It fails with the following output:")[0]
            return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"
    told = [line.strip() for line in lines if "error" in line.lower() or _KILLED.search(line)]
    return told[0] if told else f"exit code {code}"


def refuse_full_disk(lines: Iterable[str], what: str) -> None:
    """ResourceError where a tool's output says that it failed for want of space; ``what`` begins the error."""
    if any("No space left" in line or "NoSpaceLeft" in line or "Errno 28" in line for line in lines):
        msg = f"{what}: no space left on the disk of the cache or of {tempfile.gettempdir()}"
        raise ResourceError(msg, hint="free some, or point XDG_CACHE_HOME and TMPDIR at another disk")


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
