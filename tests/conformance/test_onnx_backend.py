"""The ONNX backend test-suite through thin bundles and the C++ runner, held against ONNX Runtime's own Python API."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
REQUIRED = 0.98


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, str | None]]:
    """The verdicts of all cases, in a process of its own; a case that ends it is named."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.conformance.suite"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0, (
        f"the process ended with {process.returncode} in {lines[-1] if lines else 'the start'}\n{process.stderr[-2000:]}"
    )
    return {str(line["name"]): line for line in lines if "begin" not in line}


@pytest.fixture(scope="module")
def known_misses() -> dict[str, str]:
    table = tomllib.loads((HERE / "misses.toml").read_text(encoding="utf-8"))
    return {name: reason for reason, names in table.items() for name in names["cases"]}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_runner_passes_98_percent_of_what_the_engine_passes(verdicts: dict[str, dict[str, str | None]]) -> None:
    passed_by_engine = [v for v in verdicts.values() if v["engine"] == ""]
    passed_by_both = [v for v in passed_by_engine if v["runner"] == ""]
    assert len(passed_by_engine) > 1300, "ONNX Runtime itself passes fewer cases than it did"
    share = len(passed_by_both) / len(passed_by_engine)
    sys.stdout.write(f"conformance: {len(passed_by_both)} of {len(passed_by_engine)}, {share:.2%}\n")
    assert share >= REQUIRED


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_misses_are_exactly_those_that_are_listed(
    verdicts: dict[str, dict[str, str | None]], known_misses: dict[str, str]
) -> None:
    missed = {name: v["runner"] for name, v in verdicts.items() if v["engine"] == "" and v["runner"] != ""}
    regressed = {name: reason for name, reason in missed.items() if name not in known_misses}
    assert not regressed, "cases fail that did not"
    stale = sorted(set(known_misses) - set(missed))
    assert not stale, "cases pass that misses.toml lists"
