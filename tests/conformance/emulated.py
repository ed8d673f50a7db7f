"""Runs cases through a board's runner under the emulator, those that ONNX Runtime passes here; prints one JSON line a case.

    python -m tests.conformance.emulated [--target raspberrypi4] [--sample N] [--jobs N] [--alone] [NAME …]

Without ``--sample`` all of them. Cases of the same operator sets are run as one model (``merged.py``), because each start of the emulated
runner takes one to two seconds; a case that fails there is run alone, and that counts. ``--alone`` runs each alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgebuild.cache import Cache
from edgebuild.devices.emulator import Emulator, find_emulator
from edgebuild.devices.scratch import graph_inputs, write_scratch_bundle
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.native.runner import build_runner
from edgebuild.report import SilentProgress
from edgebuild.targets import load_target

from .cases import Case, load_cases
from .merged import MOST, attempt, batches, verdicts
from .suite import through_engine

_LIMIT_S = 300
_RAW = {1: np.uint8, 2: np.uint16}
_NARROW = ("int4", "uint4", "int2", "uint2", "float4")


@dataclass(frozen=True, kw_only=True)
class Board:
    """A target's programs and what runs them here."""

    arch: str
    edgerun: Path
    engine: Path
    emulator: Emulator


def open_board(name: str) -> Board:
    """Downloads and compiles what is not in the cache yet."""
    target, cache = load_target(name), Cache.default()
    spec = target.backend("onnxruntime")
    return Board(
        arch=target.soc.arch,
        edgerun=build_runner(target, cache, SilentProgress()),
        engine=fetch_engine(engine_pin(spec.name, spec.version, target.soc.arch), cache).library,
        emulator=find_emulator(target.soc.arch, target.soc.cpu, target.os.glibc, cache, fetch=True),
    )


def run_on_board(board: Board, model: onnx.ModelProto, inputs: Sequence[Any], expected: Sequence[Any]) -> list[Any]:
    """The outputs that the emulated runner computes, each as the kind of value that is expected."""
    with tempfile.TemporaryDirectory(prefix="edgebuild-conformance-") as name:
        folder = Path(name)
        bundle = write_scratch_bundle(model, folder, engine=board.engine, options={}, arch=board.arch)
        names = [i.name for i in graph_inputs(model)]
        np.savez(folder / "in.npz", **encoded(dict(zip(names, inputs, strict=True))))
        words = [str(board.edgerun), "run", str(bundle.path), "--inputs", str(folder / "in.npz")]
        done = subprocess.run(
            board.emulator.command([*words, "--outputs", str(folder / "out.npz"), "--json"]),
            env={**board.emulator.environment(), "EDGEBUILD_RUNTIME_PATH": str(board.engine.parent)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            said = done.stdout or done.stderr
            msg = f"exit {done.returncode}: {' '.join(said.split())[:300]}"
            raise RuntimeError(msg)
        with np.load(folder / "out.npz", allow_pickle=False) as got:
            return [decoded(o.name, wanted, got) for o, wanted in zip(model.graph.output, expected, strict=True)]


def encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as the runner's ``.npz`` holds them (docs/json-output.md, "Arrays in files")."""
    arrays: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            arrays.update({f"{name}[{i}]": _plain(item) for i, item in enumerate(value)})
            if not value:
                arrays[f"{name}[]"] = np.zeros(0, np.float32)
        elif value is not None:
            arrays[name] = _plain(value)
    return arrays


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == object:
        return array.astype(str)
    if array.dtype.name.startswith(_NARROW):
        return array.view(np.uint8) & np.uint8(15 if "4" in array.dtype.name else 3)
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8")):
        return array.view(_RAW[array.dtype.itemsize])
    return array


def decoded(name: str, expected: Any, arrays: Mapping[str, Any]) -> Any:
    """A value of the kind of ``expected`` out of the runner's ``.npz``."""
    if isinstance(expected, list):
        return [decoded(f"{name}[{i}]", item, arrays) for i, item in enumerate(expected) if f"{name}[{i}]" in arrays]
    if name not in arrays:
        return None
    got, dtype = arrays[name], np.asarray(expected).dtype
    if got.dtype == dtype or dtype.kind == "O":
        return got
    if dtype.name.startswith(("int4", "int2")):
        bits = 4 if "4" in dtype.name else 2
        return ((got.astype(np.int8) << (8 - bits)) >> (8 - bits)).astype(dtype)
    if dtype.name.startswith(("uint4", "uint2")):
        return got.astype(dtype)
    raw = _RAW.get(dtype.itemsize)
    return got.view(dtype) if raw is not None and got.dtype == raw and dtype.kind in "Vf" else got


def chosen(names: Sequence[str], sample: int | None) -> list[Case]:
    """The cases that ONNX Runtime passes here: evenly spread over all, or those that are named."""
    passed = [
        case
        for case in load_cases()
        if (not names or case.name in names) and attempt(lambda case=case: through_engine(case)) == ""
    ]
    step = 1.0 if sample is None else max(1.0, len(passed) / sample)
    return [passed[int(number * step)] for number in range(int(len(passed) / step))]


def main() -> None:
    """Prints ``{"name", "board"}`` a case; ``board`` is empty where it gave the expected outputs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="raspberrypi4")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    cases = chosen(arguments.names, arguments.sample)
    board = open_board(arguments.target)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = [
            pool.submit(verdicts, group, partial(run_on_board, board))
            for group in batches(cases, 1 if arguments.alone else MOST)
        ]
        for future in as_completed(done):
            for name, verdict in future.result().items():
                sys.stdout.write(json.dumps({"name": name, "board": verdict}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
