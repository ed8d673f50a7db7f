"""How far outside the budget the noise is, where it is noise that decides."""

from dataclasses import replace

import pytest
from search_tools import scored

from edgebuild.errors import UsageError
from edgebuild.select.budget import Budget, Score, excess


def test_the_worst_output_counts_against_its_own_limit() -> None:
    value = scored(10.0).outputs[0]
    embedding = replace(value, output="e", kind="embedding", sqnr_db=30.0)
    assert excess(Score(outputs=(value,)), Budget()) == pytest.approx(10.0)  # 20 dB are needed
    assert excess(Score(outputs=(embedding,)), Budget()) == pytest.approx(10**0.35)
    assert excess(Score(outputs=(embedding, replace(value, sqnr_db=30.0))), Budget()) == pytest.approx(10**0.35)
    assert excess(Score(outputs=(embedding, value)), Budget(min_sqnr_db=18.0)) == pytest.approx(10**0.8)


def test_noise_does_not_decide_where_decisions_or_the_users_score_do() -> None:
    assert excess(replace(scored(10.0), value=0.5, float_value=0.9), Budget()) is None
    few = Score(outputs=(replace(scored(30.0, agreement=0.9).outputs[0], kind="decision"),))
    assert excess(few, Budget()) is None
    assert excess(few, Budget(min_agreement=0.9)) == pytest.approx(10**-1.8)  # decisions need 12 dB
    assert excess(scored(10.0), Budget.unlimited()) is None


def test_outputs_that_are_not_finite_are_as_far_out_as_can_be() -> None:
    assert excess(scored(float("-inf")), Budget()) == float("inf")
    assert excess(scored(float("inf")), Budget()) == 0


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"max_drop": float("nan")}, "--max-drop: expected a number of 0 or more, got nan"),  # nothing exceeds it
        ({"max_drop": -1.0}, "--max-drop: .* got -1"),
        ({"min_agreement": 98.0}, r"--min-agreement: expected a share between 0 and 1, got 98 \(98 % is"),
        ({"min_agreement": float("nan")}, "--min-agreement: .* got nan"),
        ({"min_sqnr_db": float("nan")}, "--min-sqnr: expected decibels, got nan"),
        ({"min_sqnr_db": float("inf")}, "--min-sqnr: expected decibels, got inf"),
    ],
)
def test_a_budget_that_holds_nothing_or_lets_nothing_pass_is_refused(given: dict[str, float], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Budget(**given)
    assert Budget(max_drop=0.0, min_agreement=1.0, min_sqnr_db=-5.0).min_sqnr_db == -5.0
