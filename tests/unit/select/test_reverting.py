"""Layers that go back to float, with a workbench whose speeds and scores come from a table: which, and how many."""

from typing import Any

import pytest
from search_tools import LAYERS, SPEEDS, TWO, Table, method_of, placement

from edgebuild.quantize.plan import Plan
from edgebuild.select.search import METHODS


@pytest.mark.parametrize("more", [1, 3])
def test_what_fits_in_the_search_and_not_on_all_data_loses_more_layers(go: Any, more: int) -> None:
    def sqnr(plan: Plan, limit: int | None) -> float:
        if limit == 4:
            return 40.0 - LAYERS.index(next(iter(plan.modes)))
        return 30.0 if len(LAYERS) - len(plan.modes) >= 2 + (more if limit is None else 0) else 10.0

    outcome = go(Table(sqnr=sqnr), TWO[:1])
    assert outcome.chosen is not None
    assert outcome.chosen.fits
    assert 2 + more <= len(outcome.chosen.reverted) <= 2 + more + 1


@pytest.mark.parametrize("needed", range(1, 16))
def test_as_few_layers_as_do_are_reverted(go: Any, needed: int) -> None:
    """The noise of a layer grows with its number; the budget holds once the ``needed`` noisiest are float."""
    noisy = LAYERS[::-1][:needed]

    def sqnr(plan: Plan, limit: int | None) -> float:
        if limit == 4:  # one layer alone
            (layer,) = plan.modes
            return 50.0 - LAYERS.index(layer)
        return 15.0 if any(name in plan.modes for name in noisy) else 25.0

    table = Table(sqnr=sqnr)
    outcome = go(table, [placement("p", a=True)])
    assert outcome.chosen is not None
    assert outcome.chosen.reverted == noisy
    assert set(outcome.chosen.plan.modes) == set(LAYERS) - set(noisy)
    assert f"{needed} of 16 layers float" in outcome.chosen.name
    assert table.evaluations() <= len(METHODS) + 4  # 15 numbers by bisection


def test_layers_with_much_work_are_reverted_last(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers are equally noisy, one of them has a tenth of the others' work."""
    from edgebuild.quantize.layers import Layer

    real = Layer.multiplications
    monkeypatch.setattr(
        Layer, "multiplications", lambda self: (real(self) or 0) // (10 if self.name == "layer5" else 1)
    )
    table = Table(sqnr=lambda plan, limit: 40.0 if limit == 4 else 15.0 if "layer5" in plan.modes else 25.0)
    outcome = go(table, [placement("p", a=True)])
    assert outcome.chosen is not None
    assert outcome.chosen.reverted == ("layer5",)


def test_reverting_starts_from_the_best_of_the_fastest_placement(go: Any) -> None:
    def sqnr(plan: Plan, limit: int | None) -> float:
        if limit == 4 or len(plan.modes) < 16:
            return 30.0
        return {"mse": 10.0, "minmax": 12.0, "percentile": 19.0, "entropy": 5.0}[str(method_of(plan))]

    outcome = go(Table(sqnr=sqnr, speed=SPEEDS), TWO)
    assert outcome.chosen is not None
    assert (outcome.chosen.placement, outcome.chosen.method) == ("fast", "percentile")
    assert len(outcome.chosen.reverted) == 1
