"""What the benchmarks share: built programs, bundles in a folder of their own, repeated processes, tables."""

import functools
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebuild.installed_torch import find_torch

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "benchmarks"
BIN = Path(sys.executable).parent
EDGEBUILD = BIN / "edgebuild"


@functools.cache
def native_program(name: str) -> Path:
    """A program of benchmarks/native, built in Release mode."""
    build = WORK / "native"
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    configure += ["-DEDGEBUILD_BENCHMARKS=ON", "-DEDGEBUILD_LIBRARY=OFF"]
    torch = find_torch()
    if torch is not None:
        configure.append(f"-DEDGEBUILD_LIBTORCH_ROOT={torch.root}")
    for command in (configure, ["cmake", "--build", str(build), "--target", name]):
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return build / "benchmarks" / "native" / name


@functools.cache
def engine_library() -> Path:
    """ONNX Runtime's library as the bundles carry it."""
    from edgebuild.cache import Cache
    from edgebuild.native.engines import engine_pin, fetch_engine

    return fetch_engine(engine_pin("onnxruntime", "1.31.1", "x86_64"), Cache.default()).library


def traced(name: str, make: Callable[[], Any], *shape: int) -> Path:
    """What ``make`` returns, traced and saved as TorchScript, once."""
    import torch

    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / f"{name}.pt"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(make(), torch.ones(*shape)), str(path))
    return path


def bundle(path: Path, *flags: str) -> Path:
    """The unpacked bundle of a model file for x86-64."""
    output = WORK / f"{path.stem}.x86-64.edge"
    command = [str(EDGEBUILD), "--target", "x86-64", str(path), "-o", str(output), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    subprocess.run(["tar", "xf", str(output), "-C", str(WORK)], check=True)
    return WORK / f"{path.stem}.x86-64"


def model_file(folder: Path) -> Path:
    """The model that a bundle's first variant loads."""
    from edgebuild.bundle.reader import Bundle

    return folder / Bundle.open(folder).manifest.variants[0].model


@dataclass(frozen=True)
class Cost:
    """One process: processor and wall time in milliseconds, peak memory in MiB."""

    cpu_ms: float
    wall_ms: float
    peak_mib: float


def process_cost(command: Sequence[str], **environment: str) -> Cost:
    """Runs a command to its end. Raises CalledProcessError if it fails."""
    measure = [sys.executable, "-I", "-S", str(Path(__file__).with_name("process_cost.py")), *command]
    done = subprocess.run(measure, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return Cost(**json.loads(done.stdout))


def alternate(runs: int, *sides: Callable[[], Cost]) -> list[list[Cost]]:
    """Runs the sides in turn, once uncounted and then ``runs`` times, so that the machine's drift hits all alike."""
    for side in sides:
        side()
    results: list[list[Cost]] = [[] for _ in sides]
    for _ in range(runs):
        for side, costs in zip(sides, results, strict=True):
            costs.append(side())
    return results


def spread(values: Sequence[float]) -> str:
    """Median with the 10th and 90th percentile."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]
    return f"{statistics.median(ordered):.1f} ({low:.1f} to {high:.1f})"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints one aligned table."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    print(f"\n{title}")
    for row in table:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
