"""Runs cases through a board's runner under the emulator, those that ONNX Runtime passes here; prints one JSON line a case.

    python -m tests.conformance.emulated [--target raspberrypi4] [--sample N] [--part I/N] [NAME …]

Without ``--sample`` all of them: each starts the emulated runner, which takes one to two seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.cache import Cache
from edgebuild.devices.emulator import Emulator, find_emulator
from edgebuild.devices.scratch import graph_inputs, write_scratch_bundle
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.native.runner import build_runner
from edgebuild.report import SilentProgress
from edgebuild.targets import load_target

from .cases import Case, agrees, load_cases
from .suite import _attempt, through_engine

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


def through_board(case: Case, board: Board) -> str:
    """Empty if the emulated runner gives the expected outputs, else what happened."""
    with tempfile.TemporaryDirectory(prefix="edgebuild-conformance-") as name:
        folder = Path(name)
        bundle = write_scratch_bundle(case.model, folder, engine=board.engine, options={}, arch=board.arch)
        names = [i.name for i in graph_inputs(case.model)]
        outputs = [o.name for o in case.model.graph.output]
        for inputs, expected in case.data_sets:
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
                return f"exit {done.returncode}: {said.strip()[:300]}"
            with np.load(folder / "out.npz", allow_pickle=False) as got:
                for key, wanted in zip(outputs, expected, strict=True):
                    wrong = agrees(decoded(key, wanted, got), wanted, case)
                    if wrong:
                        return f"output {key}: {wrong}"
    return ""


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


def chosen(names: Sequence[str], sample: int | None, part: str) -> Iterator[Case]:
    """The cases that ONNX Runtime passes here: evenly spread over all, or those that are named."""
    index, parts = map(int, part.split("/"))
    passed = [
        case
        for case in load_cases()
        if (not names or case.name in names) and _attempt(lambda case=case: through_engine(case)) == ""
    ]
    step = 1.0 if sample is None else max(1.0, len(passed) / sample)
    taken = [passed[int(number * step)] for number in range(int(len(passed) / step))]
    yield from taken[index::parts]


def main() -> None:
    """Prints ``{"name", "board"}`` a case; ``board`` is empty where it gave the expected outputs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default="raspberrypi4")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    board = open_board(arguments.target)
    for case in chosen(arguments.names, arguments.sample, arguments.part):
        sys.stdout.write(json.dumps({"begin": case.name}) + "\n")
        sys.stdout.flush()
        verdict = _attempt(lambda case=case: through_board(case, board))
        sys.stdout.write(json.dumps({"name": case.name, "board": verdict}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
