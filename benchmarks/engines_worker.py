"""One process of ``both_engines.py``: ``engines_worker.py BUNDLE THREADS BACKEND[,BACKEND] FEED.npz``; imports no torch.

With OMP_WAIT_POLICY=passive neither engine's threads spin while they wait.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 1.5


def work(path: Path, threads: int, backends: list[str], feed: Path) -> dict[str, Any]:
    """Loads the variants of these backends and times them: milliseconds, and the process's threads beyond those of Python."""
    from edgebuild import Runner

    before = _threads()
    with np.load(feed) as arrays:
        inputs = dict(arrays)
    still = {"onnxruntime": {"allow_spinning": "0"}} if os.environ.get("OMP_WAIT_POLICY") == "passive" else {}
    runners = {
        b: Runner(path, backend=b, options={"intra_op_threads": str(threads), **still.get(b, {})}) for b in backends
    }

    def once(backend: str) -> float:
        start = time.perf_counter()
        runners[backend].run(inputs)
        return time.perf_counter() - start

    for _ in range(5):
        for backend in backends:
            once(backend)
    found: dict[str, Any] = {}
    for backend in backends:
        time.sleep(0.2)  # what the other's threads still wait for is over
        found[f"{backend} {'alone' if len(backends) == 1 else 'beside'}"] = _median(
            [once(backend) for _ in _until(SECONDS)]
        )
    if len(backends) > 1:
        times: dict[str, list[float]] = {backend: [] for backend in backends}
        for _ in _until(2 * SECONDS):
            for backend in backends:
                times[backend].append(once(backend))
        found |= {f"{backend} in turn": _median(values) for backend, values in times.items()}
    return {**found, "threads": _threads() - before}


def _threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def _until(seconds: float) -> Iterator[None]:
    """Goes on for so long, and for at least 15 steps."""
    end, steps = time.monotonic() + seconds, 0
    while steps < 15 or time.monotonic() < end:
        yield
        steps += 1


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), Path(sys.argv[4]))))
