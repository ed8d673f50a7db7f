"""Runs a bundle's program to its end and hears meanwhile how far it is: an emulated inference may take a minute."""

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

VARIABLE = "EDGEBUILD_PROGRESS"
"""With it edgerun writes to stderr how many of its inferences are done."""

_TOLD = re.compile(rb"edgebuild-progress (\d+) (\d+)\n")
_BEAT_S = 1.0
_CHUNK_BYTES = 2**16

Hear = Callable[[int, int], None]
"""Takes how many inferences are done, and of how many; also each second in which nothing happened."""


def run_child(
    command: Sequence[str], environment: Mapping[str, str], limit_s: float | None, hear: Hear | None, total: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Runs a program with its output captured.

    Args:
        command: Program and arguments.
        environment: All of its environment.
        limit_s: It is killed after so many seconds; None: never.
        hear: Called from this thread; None: nobody listens.
        total: Inferences in all, until the program says it.

    Raises:
        TimeoutExpired: It took longer.
        OSError: It does not start.
    """
    if hear is None:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=environment, timeout=limit_s
        )
    deadline = None if limit_s is None else time.monotonic() + limit_s
    process = subprocess.Popen(
        command, env={**environment, VARIABLE: "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = _listen(process, deadline, hear, total)
        code = process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise subprocess.TimeoutExpired(command, limit_s or 0.0) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return subprocess.CompletedProcess(command, code, out.decode(errors="replace"), err.decode(errors="replace"))


def _listen(process: "subprocess.Popen[bytes]", deadline: float | None, hear: Hear, total: int) -> tuple[bytes, bytes]:
    """Everything that a process writes to stdout and stderr, but for what it tells of its progress."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = (process.stdout.fileno(), process.stderr.fileno())
    taken = dict.fromkeys(streams, b"")
    told = (0, total)
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = _BEAT_S if deadline is None else min(_BEAT_S, deadline - time.monotonic())
            if left <= 0:
                raise subprocess.TimeoutExpired([], 0.0)
            for key, _ in selector.select(left):
                data = os.read(key.fd, _CHUNK_BYTES)
                taken[key.fd] += data
                if not data:
                    selector.unregister(key.fd)
            for match in _TOLD.finditer(taken[streams[1]]):
                told = (int(match[1]), int(match[2]))
            taken[streams[1]] = _TOLD.sub(b"", taken[streams[1]])
            hear(*told)
    return taken[streams[0]], taken[streams[1]]
