"""The search, with a workbench whose speeds and scores come from a table: what it chooses, what it spends, what it says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from search_tools import LAYERS, SPEEDS, TWO, Table, base, by_operator, method_of, placement, scored

from edgebuild.quantize.plan import Plan
from edgebuild.select.bases import Base
from edgebuild.select.budget import Budget
from edgebuild.select.search import METHODS
from edgebuild.select.trials import noise_share


def test_the_fastest_that_fits_wins(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 30.0, speed=SPEEDS)
    outcome = go(table, TWO)
    assert outcome.chosen is not None
    assert outcome.chosen.placement == "fast"
    assert outcome.chosen.name == "fast, mse"
    assert outcome.chosen.method == "mse"
    assert outcome.chosen.fits
    assert outcome.reason == ""
    assert table.evaluations() == 1
    assert table.judged[-1][1] is None  # the last word is on all data
    assert len(table.timed) == 3 + 1
    assert [trial.name for trial in outcome.trials if trial.score is None] == [
        "slow, minmax",
        "fast, minmax",
        "middle, minmax",
    ]


def test_the_next_fastest_is_taken_where_the_fastest_does_not_fit(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 5.0 if "b" in plan.operators else 30.0, speed=SPEEDS)
    outcome = go(table, TWO)
    assert outcome.chosen is not None
    assert outcome.chosen.placement == "middle"
    assert table.evaluations() == len(METHODS) + 1


def test_range_methods_are_tried_until_one_fits(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 30.0 if method_of(plan) == "percentile" else 10.0)
    outcome = go(table, [placement("p", a=True)])
    assert outcome.chosen is not None
    assert outcome.chosen.method == "percentile"
    assert table.evaluations() == METHODS.index("percentile") + 1


def test_dynamic_placements_have_no_ranges_and_are_judged_once(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 5.0)
    outcome = go(table, [placement("p", "dynamic")], evaluations=1)
    assert outcome.chosen is None
    assert all(method_of(plan) is None for plan, _ in table.judged)
    assert [trial.method for trial in outcome.trials] == [None, None]


@pytest.mark.parametrize("ratio", [0.5, 0.97])
def test_what_is_slower_is_out_and_nothing_is_judged(go: Any, ratio: float) -> None:
    table = Table(sqnr=lambda plan, limit: 99.0, speed=by_operator({"a": ratio / 2, "b": ratio, "c": ratio / 3}))
    outcome = go(table, TWO)
    assert outcome.chosen is None
    assert (
        outcome.reason
        == f"every quantised form is slower than float here: the best runs at {ratio:.2f} times its speed"
    )
    assert table.judged == []


def test_a_slower_placement_is_not_judged_even_if_nothing_else_fits(go: Any) -> None:
    table = Table(
        sqnr=lambda plan, limit: 30.0 if "a" in plan.operators else 5.0, speed=by_operator({"a": 0.9, "b": 3.0, "c": 2})
    )
    outcome = go(table, TWO, evaluations=8)
    assert outcome.chosen is None
    assert not any("a" in plan.operators for plan, _ in table.judged)


def test_without_a_machine_to_measure_on_the_order_is_that_of_the_placements(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 30.0)
    outcome = go(table, TWO, measurable=False)
    assert outcome.chosen is not None
    assert outcome.chosen.placement == "slow"
    assert outcome.chosen.speed is None
    assert table.timed == []


def test_no_placement_no_search(go: Any) -> None:
    outcome = go(Table(sqnr=lambda plan, limit: 99.0), [])
    assert (outcome.chosen, outcome.trials) == (None, ())
    assert outcome.reason == "the model has no layer whose weights could be quantised"


def test_rewritten_bases_are_made_only_when_the_plain_one_fails(go: Any) -> None:
    made: list[str] = []

    def make(name: str) -> Callable[[], Base | None]:
        def one() -> Base | None:
            made.append(name)
            return None if name == "nothing" else base(name)

        return one

    names = ["plain", "nothing", "smoothed"]
    outcome = go(Table(sqnr=lambda plan, limit: 30.0), TWO, bases=[make(n) for n in names])
    assert outcome.chosen is not None
    assert made == ["plain"]
    made.clear()
    outcome = go(Table(sqnr=lambda plan, limit: 5.0), TWO[:1], bases=[make(n) for n in names], evaluations=12)
    assert made == names
    assert [trial.method for trial in outcome.trials if trial.base == "smoothed"] == ["mse"]
    assert any(trial.name == "slow, smoothed, mse" for trial in outcome.trials)


def test_biases_and_roundings_are_asked_for_when_ranges_do_not_do(go: Any) -> None:
    """10 dB as it is, 3 more with corrected biases, 5 more with compensated weights: the ladder stops where it fits."""

    def sqnr(plan: Plan, limit: int | None) -> float:
        return 10.0 + 3 * bool(plan.means) + 5 * bool(plan.roundings)

    asked: list[str] = []

    def full() -> Base:
        def means() -> Any:
            asked.append("means")
            return {LAYERS[0]: (1.0,), "a layer that no placement has": (1.0,)}

        def roundings() -> Any:
            asked.append("roundings")
            return {LAYERS[0]: {"8": "AA=="}}

        return replace(base("plain"), means=means, roundings=roundings)

    for least, words, calls in (
        (9.0, "", []),
        (12.0, ", biases corrected", ["means"]),
        (17.0, ", biases corrected, compensated rounding", ["means", "roundings"]),
    ):
        asked.clear()
        outcome = go(Table(sqnr=sqnr), TWO[:1], bases=[full], budget=Budget(min_sqnr_db=least))
        assert outcome.chosen is not None
        assert outcome.chosen.name == f"slow, mse{words}"
        assert asked == calls
        assert set(outcome.chosen.plan.means) <= set(LAYERS)


def test_a_base_may_want_other_modes_for_some_layers(go: Any) -> None:
    def scaled() -> Base:
        return replace(base("smoothed"), modes={LAYERS[3]: "rowwise", "unknown": "rowwise"})

    def sqnr(plan: Plan, limit: int | None) -> float:
        return 30.0 if plan.modes.get(LAYERS[3]) == "rowwise" else 5.0

    outcome = go(Table(sqnr=sqnr), TWO[:1], bases=[lambda: base("plain"), scaled])
    assert outcome.chosen is not None
    assert outcome.chosen.plan.modes == {**dict.fromkeys(LAYERS, "static"), LAYERS[3]: "rowwise"}


def test_of_candidates_that_are_about_as_fast_the_more_accurate_one_loses_layers_first(go: Any) -> None:
    """The faster one would need 12 layers in float, the other, 3 % slower, only 2."""
    dynamic = placement("dynamic", mode="dynamic")
    static = placement("static", a=True)

    def sqnr(plan: Plan, limit: int | None) -> float:
        if limit == 4:
            return 40.0 - LAYERS.index(next(iter(plan.modes)))
        needed = 12 if "static" in plan.modes.values() else 2
        return 30.0 if len(LAYERS) - len(plan.modes) >= needed else 19.0 - (needed == 12)

    def speed(plan: Plan) -> float:
        whole = 2.06 if "static" in plan.modes.values() else 2.0
        return 1 + (whole - 1) * len(plan.modes) / len(LAYERS)

    outcome = go(Table(sqnr=sqnr, speed=speed), [static, dynamic])
    assert outcome.chosen is not None
    assert outcome.chosen.placement == "dynamic"
    assert len(outcome.chosen.reverted) == 2


@pytest.mark.parametrize("evaluations", [1, 2, 3, 4, 5, 7, 24])
@pytest.mark.parametrize("measurable", [True, False])
def test_the_number_of_evaluations_is_held(go: Any, evaluations: int, measurable: bool) -> None:
    table = Table(sqnr=lambda plan, limit: 5.0)
    outcome = go(
        table, [placement("p", a=True), placement("q", b=True)], evaluations=evaluations, measurable=measurable
    )
    assert outcome.chosen is None
    assert table.evaluations() <= evaluations
    if evaluations <= 2:  # none is left to revert with: then layers are not looked at either
        assert all(limit != 4 for _, limit in table.judged)


def test_a_third_of_the_evaluations_is_kept_for_reverting(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 25.0 if len(plan.modes) < 16 else 5.0)
    outcome = go(table, [placement("p", a=True), placement("q", b=True), placement("r", c=True)], evaluations=9)
    assert outcome.chosen is not None
    assert len(outcome.chosen.reverted) == 2  # of 16: three steps of bisection, 8, 4 and 2
    assert sum(limit == 32 and len(plan.modes) == 16 for plan, limit in table.judged) == 6
    assert table.evaluations() <= 9


@pytest.mark.parametrize(("ratio", "looked_at"), [(1.5, False), (1.7, True)])
def test_a_placement_with_a_small_part_of_the_gain_is_no_alternative(go: Any, ratio: float, looked_at: bool) -> None:
    table = Table(sqnr=lambda plan, limit: 5.0, speed=by_operator({"a": ratio, "b": 3.0}))
    go(table, [placement("p", a=True), placement("q", b=True)])
    assert any("a" in plan.operators for plan, limit in table.judged if limit == 32) == looked_at


def test_the_reason_names_the_nearest_and_what_it_breaks(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: {"mse": 11.0, "minmax": 17.5}.get(str(method_of(plan)), 3.0))
    outcome = go(table, [placement("static things", a=True)], evaluations=4)
    assert outcome.reason == (
        "nothing fits the accuracy budget; the nearest is static things, minmax: "
        "output 'y': signal to noise 17.5 dB, needed 20 dB"
    )


def test_what_holds_in_the_search_must_hold_on_all_data(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 19.0 if limit is None else 25.0)
    outcome = go(table, [placement("p", a=True)], evaluations=1)
    assert outcome.chosen is None
    assert outcome.reason.startswith("nothing fits the accuracy budget; the nearest is p, mse:")
    assert "19.0 dB, needed 20 dB" in outcome.reason


def test_what_is_slow_in_the_end_does_not_ship(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 30.0)
    table.speed = lambda plan: 2.0 if method_of(plan) == "minmax" else 0.99
    outcome = go(table, [placement("p", a=True)])
    assert outcome.chosen is None
    assert outcome.reason == "p, mse fits the budget but is slower than float"


def test_the_noise_share_at_its_ends() -> None:
    assert noise_share(scored(20.0)) == pytest.approx(0.01)
    assert noise_share(scored(float("inf"))) == 0
    assert noise_share(scored(float("-inf"))) == float("inf")


def test_what_is_as_fast_as_float_may_ship_for_its_size(go: Any) -> None:
    table = Table(sqnr=lambda plan, limit: 99.0, speed=by_operator({"a": 0.7, "b": 1.0, "c": 0.6}))
    outcome = go(table, TWO)
    assert outcome.chosen is not None
    assert outcome.chosen.speed.ratio == 1.0
