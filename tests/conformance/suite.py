"""Runs cases through ONNX Runtime's Python API and through a bundle with the C++ runner; prints one JSON line a case.

    python -m tests.conformance.suite [--part I/N] [NAME …]

A process of its own, because a model that takes the engine down must not take the tests down.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from edgebuild.cache import Cache
from edgebuild.devices.scratch import graph_inputs
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.runtime import Runner

from .bundles import write_thin_bundle
from .cases import Case, agrees, load_cases


def through_engine(case: Case) -> str:
    """Empty if ONNX Runtime's Python API gives the expected outputs, else what happened."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in graph_inputs(case.model)]
    return _judge(case, lambda values: list(session.run(None, dict(zip(names, values, strict=True)))))


def through_runner(case: Case, library: Path) -> str:
    """Empty if the C++ runner gives the expected outputs from a thin bundle, else what happened."""
    folder = Path(tempfile.mkdtemp(prefix="edgebuild-conformance-"))
    try:
        bundle = write_thin_bundle(case, library, folder)
        names = [i.name for i in graph_inputs(case.model)]
        with Runner(bundle.path, runtime_path=str(library.parent)) as runner:
            return _judge(case, lambda values: list(runner.run(dict(zip(names, values, strict=True))).values()))
    finally:
        shutil.rmtree(folder)


def _judge(case: Case, run: Callable[[list[Any]], list[Any]]) -> str:
    for inputs, expected in case.data_sets:
        for got, wanted in zip(run(inputs), expected, strict=True):
            wrong = agrees(got, wanted, case)
            if wrong:
                return wrong
    return ""


def _attempt(run: Callable[[], str]) -> str:
    try:
        return run()
    except Exception as error:  # whatever it is, it is the case's result
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def main() -> None:
    """Prints ``{"name", "engine", "runner"}`` a case; ``runner`` is null where the engine itself fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="0/1")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    library = fetch_engine(engine_pin("onnxruntime", "1.31.1", "x86_64"), Cache.default()).library
    for index, case in enumerate(load_cases()):
        if index % parts != part or (arguments.names and case.name not in arguments.names):
            continue
        sys.stdout.write(json.dumps({"begin": case.name}) + "\n")
        sys.stdout.flush()
        engine = _attempt(lambda case=case: through_engine(case))
        runner = None if engine else _attempt(lambda case=case: through_runner(case, library))
        sys.stdout.write(json.dumps({"name": case.name, "engine": engine, "runner": runner}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
