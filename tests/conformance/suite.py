"""Runs cases through ONNX Runtime's Python API and through a bundle with the C++ runner; prints one JSON line a case.

    python -m tests.conformance.suite [--alone] [NAME …]

A process of its own, because a model that takes the engine down must not take the tests down. The runner gets cases of the same operator sets as one
model (``merged.py``), because each load of the engine hashes its library; ``--alone``: each by itself.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from edgebuild.cache import Cache
from edgebuild.devices.scratch import graph_inputs, write_scratch_bundle
from edgebuild.native.engines import engine_pin, fetch_engine
from edgebuild.runtime import Runner

from .cases import Case, agrees, load_cases
from .merged import MOST, attempt, batches, verdicts


def through_engine(case: Case) -> str:
    """Empty if ONNX Runtime's Python API gives the expected outputs, else what happened."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in graph_inputs(case.model)]
    return _judge(case, lambda values: list(session.run(None, dict(zip(names, values, strict=True)))))


def run_here(library: Path, model: onnx.ModelProto, inputs: Sequence[Any], expected: Sequence[Any]) -> list[Any]:
    """What the C++ runner computes from a thin bundle."""
    folder = Path(tempfile.mkdtemp(prefix="edgebuild-conformance-"))
    try:
        bundle = write_scratch_bundle(model, folder, engine=library, options={})
        names = [i.name for i in graph_inputs(model)]
        with Runner(bundle.path, runtime_path=str(library.parent)) as runner:
            return list(runner.run(dict(zip(names, inputs, strict=True))).values())
    finally:
        shutil.rmtree(folder)


def _judge(case: Case, run: Callable[[list[Any]], list[Any]]) -> str:
    for inputs, expected in case.data_sets:
        for got, wanted in zip(run(inputs), expected, strict=True):
            wrong = agrees(got, wanted, case)
            if wrong:
                return wrong
    return ""


def main() -> None:
    """Prints ``{"name", "engine", "runner"}`` a case; ``runner`` is null where the engine itself fails."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    library = fetch_engine(engine_pin("onnxruntime", "1.31.1", "x86_64"), Cache.default()).library
    passed = []
    for case in load_cases():
        if arguments.names and case.name not in arguments.names:
            continue
        _say({"begin": case.name})
        engine = attempt(lambda case=case: through_engine(case))
        if engine:
            _say({"name": case.name, "engine": engine, "runner": None})
        else:
            passed.append(case)
    for group in batches(passed, 1 if arguments.alone else MOST):
        _say({"begin": [case.name for case in group]})
        for name, runner in verdicts(group, partial(run_here, library)).items():
            _say({"name": name, "engine": "", "runner": runner})


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
