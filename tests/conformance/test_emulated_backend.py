"""The ONNX backend test-suite through a board's runner under the emulator."""

import json
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebuild.machine import machine_arch

from .cases import Case
from .emulated import open_board, run_on_board
from .merged import verdicts

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REQUIRED = 0.98

pytestmark = [
    pytest.mark.skipif(
        machine_arch() != "x86_64", reason="the board is no foreign one here: this is no x86-64 machine"
    ),
    pytest.mark.slow,
    pytest.mark.timeout(3000),
]


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """What became of each case, in a process of its own: a model that takes the engine down must not take the tests down."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.conformance.emulated"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line["name"]: line["board"] for line in map(json.loads, done.stdout.splitlines())}


def test_the_emulated_runner_passes_98_percent_of_what_the_engine_passes_here(found: dict[str, str]) -> None:
    assert len(found) > 1300, "ONNX Runtime itself passes fewer cases here than it did"
    passed = sum(verdict == "" for verdict in found.values())
    sys.stdout.write(f"conformance under emulation: {passed} of {len(found)}\n")
    assert passed / len(found) >= REQUIRED


def test_the_emulated_misses_are_listed(found: dict[str, str]) -> None:
    table = tomllib.loads((HERE / "misses_emulated.toml").read_text(encoding="utf-8"))
    known = {name for entry in table.values() for name in entry["cases"]}
    assert {name: verdict for name, verdict in found.items() if verdict and name not in known} == {}


def _case(name: str, operator: str, opset: int, expected: float) -> Case:
    info = [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n"]) for value in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], name, info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    sets = (([np.full(opset, 2, np.float32)], [np.full(opset, expected, np.float32)]),)
    return Case(name=name, kind="node", model=model, data_sets=sets, rtol=1e-3, atol=1e-7)


def test_in_one_model_each_case_is_judged_by_itself() -> None:
    cases = [
        _case("right", "Neg", 13, -2),
        _case("wrong", "Neg", 13, 2),
        _case("no such operator", "Nothing", 13, 0),
        _case("also right", "Relu", 13, 2),
    ]
    found = verdicts(cases, partial(run_on_board, open_board("raspberrypi4")))
    assert found["right"] == found["also right"] == ""
    assert found["wrong"] == "output y: values differ"
    assert "can't load model" in found["no such operator"]
