"""ONNX Runtime and LibTorch in one process: ``both_engines.py [NET …]``. docs/libtorch.md has the figures.

A bundle with a variant for each, loaded by one Python process. Each variant's latency (wall time, median) with 1 thread and with one for
each processor: in a process that has loaded nothing else, beside the other one loaded and idle, and in turn with it, where the threads of
the one still wait for work while the other runs. And how many threads the process has then. With OMP_WAIT_POLICY=passive in the environment
waiting threads of both sleep instead of spinning.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nets import find
from nets.stored import calibration_folder, folder, torchscript
from workbench import EDGEBUILD, engine_library, show, spread

NETS = ("mobilenet_v2", "vit_tiny")
BACKENDS = ("onnxruntime", "libtorch")
PROCESSES = 3
WORKER = Path(__file__).with_name("engines_worker.py")


def main(nets: Sequence[str] = ()) -> None:
    """Prints a table."""
    rows = []
    processors = len(os.sched_getaffinity(0))
    for name in nets or NETS:
        path = two_variants(name)
        feed = min(calibration_folder(find(name), 32).iterdir())
        for threads in sorted({1, processors}):
            found: dict[str, list[float]] = {}
            counts: set[str] = set()
            for _ in range(PROCESSES):
                for backends in (*BACKENDS, ",".join(BACKENDS)):
                    answer = process(path, threads, backends, feed)
                    counts.add(f"{backends.replace(',', ' + ')}: {answer.pop('threads')}")
                    for key, value in answer.items():
                        found.setdefault(key, []).append(value)
            rows += [
                (
                    name,
                    str(threads),
                    backend,
                    *(spread(found[f"{backend} {when}"]) for when in ("alone", "beside", "in turn")),
                )
                for backend in BACKENDS
            ]
            rows.append((name, str(threads), "threads of the process", "; ".join(sorted(counts)), "", ""))
            print(*rows[-3:], sep="\n", flush=True)
    show(
        f"Milliseconds of one inference (median of {PROCESSES} processes; least to most), {processors} processors",
        ("net", "threads", "variant", "alone", "beside the other, idle", "in turn with the other"),
        rows,
    )


def two_variants(name: str) -> Path:
    """A thin bundle of the net with a variant for each engine."""
    net = find(name)
    output = folder(net) / f"{name}-two-engines.edge"
    command = [str(EDGEBUILD), "--target", "x86-64", str(torchscript(net)), "-o", str(output), "--thin", "--no-measure"]
    for backend in BACKENDS:
        command += ["--backend", backend]
    for key, text in net.inputs.items():
        command += ["--input", f"{key}:{text}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def process(path: Path, threads: int, backends: str, feed: Path) -> dict[str, Any]:
    """What a process with these engines measured."""
    command = [sys.executable, str(WORKER), str(path), str(threads), backends, str(feed)]
    environment = {**os.environ, "EDGEBUILD_RUNTIME_PATH": str(engine_library().parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main(sys.argv[1:])
