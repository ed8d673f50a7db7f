"""A sample of the ONNX backend test-suite through a board's runner under the emulator; all of it: ``python -m tests.conformance.emulated``."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgebuild.machine import machine_arch

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLE = 320
PARTS = 2
REQUIRED = 0.98

pytestmark = [
    pytest.mark.skipif(
        machine_arch() != "x86_64", reason="the board is no foreign one here: this is no x86-64 machine"
    ),
    pytest.mark.slow,
    pytest.mark.timeout(3000),
]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """What became of each case, run by two processes side by side."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.conformance.emulated", "--sample", str(SAMPLE)]
    # The first alone: it downloads and compiles what the others then share.
    subprocess.run([*command, "test_relu"], cwd=ROOT, check=True, capture_output=True)
    processes = [
        subprocess.Popen(
            [*command, "--part", f"{part}/{PARTS}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for part in range(PARTS)
    ]
    found: dict[str, str] = {}
    for process in processes:
        out, err = process.communicate()
        lines = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, f"ended in {lines[-1] if lines else 'the start'}\n{err[-2000:]}"
        found |= {line["name"]: line["board"] for line in lines if "board" in line}
    return found


def test_the_emulated_runner_passes_98_percent_of_what_the_engine_passes_here(verdicts: dict[str, str]) -> None:
    assert len(verdicts) >= 300
    passed = sum(verdict == "" for verdict in verdicts.values())
    sys.stdout.write(f"conformance under emulation: {passed} of {len(verdicts)}\n")
    assert passed / len(verdicts) >= REQUIRED


def test_the_emulated_misses_are_listed(verdicts: dict[str, str]) -> None:
    table = tomllib.loads((HERE / "misses_emulated.toml").read_text(encoding="utf-8"))
    known = {name for entry in table.values() for name in entry["cases"]}
    assert {name: verdict for name, verdict in verdicts.items() if verdict and name not in known} == {}
