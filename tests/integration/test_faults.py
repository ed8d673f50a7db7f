"""A sample of benchmarks/faults.py: a fault is planted, the net quantised as a build does, and the explanation names it first."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "fault",
    ["channel x1000", "layer clipped", "wrong scale", "saturating pairs", "exponential", "cancellation"],
)
def test_the_planted_fault_is_named_first(fault: str) -> None:
    from faults.run import run

    verdict = run(fault, "cnn", 0)
    assert verdict.right, verdict.first
    assert verdict.analysis.sum == pytest.approx(verdict.analysis.total, rel=0.1)


def test_in_a_sound_net_nothing_but_rounding_is_found() -> None:
    from faults.run import run

    assert run("none", "cnn", 0).first.cause == "rounding"
