"""The choice of forms by sensitivity, with a workbench whose noise is that of each layer's form, heard as a table says."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from search_tools import LAYERS, SCHEME, Table, base, placement

from edgebuild.quantize.copies import Split
from edgebuild.quantize.plan import Plan, Smoothing
from edgebuild.quantize.product_forms import Form
from edgebuild.quantize.tune import Tuned
from edgebuild.select.bases import Base
from edgebuild.select.budget import Budget
from edgebuild.select.roundings import SharedRoundings

SPLIT = Split(channels=(3,), copies=(3,), steps=(0.0,))
FORMS = (
    Form(alpha=0.5, mode="dynamic", split=None, noise=1e-3, work=0),
    Form(alpha=0.5, mode="rowwise", split=None, noise=7e-4, work=40),
    Form(alpha=0.0, mode="blockwise", split=None, noise=1e-4, work=300),
    Form(alpha=0.35, mode="dynamic", split=SPLIT, noise=4e-4, work=60),
)
"""One product of 16 x 16 takes 256; in float 614 more."""

Makers = list[Callable[[], Base | None]]


def activation(layer: str) -> str:
    return f"into {layer}"


def tuned() -> Tuned:
    products: dict[str, Any] = {activation(n): [SimpleNamespace(name=n, weight_size=256)] for n in LAYERS}
    return Tuned(
        products=products,
        forms=dict.fromkeys(products, FORMS),
        absmax=dict.fromkeys(products, (1.0,) * 16),
        rows=dict.fromkeys(products, 2.0),
    )


def bases(shared: SharedRoundings | None = None, **changes: Any) -> Makers:
    forms = tuned()
    tuning = forms.tuning(forms.cheap())
    smoothed = replace(base("smoothed"), smoothing=tuning.smoothing, tuned=forms, shared=shared, **changes)
    return [lambda: base("plain"), lambda: smoothed]


def noise_of(plan: Plan, heard: Mapping[str, float]) -> float:
    """Of the layers together; without smoothing they have ten times as much."""
    total = 0.0
    for name, mode in plan.modes.items():
        if plan.smoothing is None:
            total += 1e-2 * heard[name]
            continue
        split = plan.smoothing.splits.get(activation(name)) if mode != "blockwise" else None
        mode = "dynamic" if mode == "static" else mode
        (form,) = (f for f in FORMS if (f.mode, f.split) == (mode, split))
        total += form.noise * heard[name] * (0.8 if name in plan.roundings else 1)
    return total


def table(heard: Mapping[str, float], **changes: Any) -> Table:
    return Table(sqnr=lambda plan, limit: -10 * math.log10(max(noise_of(plan, heard), 1e-12)), **changes)


EVEN = dict.fromkeys(LAYERS, 1.0)
"""Sixteen layers at 1e-3 each: 18 dB with the cheap forms."""

UNEVEN = {name: 10.0 ** (-index % 4 - 1) for index, name in enumerate(LAYERS)}


@pytest.mark.parametrize("least", [21.0, 25.0, 28.0, 35.0])
@pytest.mark.parametrize("heard", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_the_budget_is_met_with_next_to_no_room_left(go: Any, least: float, heard: Mapping[str, float]) -> None:
    unit = sum(1e-3 * x for x in heard.values()) / (16 * 1e-3)
    scaled = {name: x / unit for name, x in heard.items()}
    measured = table(scaled)
    outcome = go(measured, [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=least))
    assert outcome.chosen is not None
    assert outcome.chosen.fits
    got = outcome.chosen.score.sqnr_db
    assert least <= got < least + 1.5
    assert measured.evaluations() <= 2 + 9
    assert outcome.chosen.name.startswith("p, forms by sensitivity")


def test_what_nobody_hears_keeps_its_cheapest_form(go: Any) -> None:
    heard = {name: 1.0 if name == "layer7" else 1e-9 for name in LAYERS}
    outcome = go(table(heard), [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=39.0))
    assert outcome.chosen.plan.modes == {**dict.fromkeys(LAYERS, "dynamic"), "layer7": "blockwise"}
    assert outcome.chosen.name == "p, forms by sensitivity, 1 blockwise"
    assert outcome.chosen.reverted == ()


def test_layers_that_go_back_to_float_are_named(go: Any) -> None:
    heard = {name: 1.0 if name in ("layer3", "layer9") else 1e-5 for name in LAYERS}
    outcome = go(table(heard), [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=62.0))
    assert outcome.chosen.reverted == ("layer3", "layer9")
    assert not {"layer3", "layer9"} & set(outcome.chosen.plan.modes)
    assert outcome.chosen.name.startswith("p, forms by sensitivity, 2 of 16 layers float")


def test_every_activation_is_measured_once_and_alone(go: Any) -> None:
    measured = table(EVEN)
    go(measured, [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=25.0))
    alone = [tuple(plan.modes) for plan, limit in measured.judged if limit == 4]
    assert sorted(alone) == sorted((name,) for name in LAYERS)


def test_of_many_activations_the_loudest_are_measured(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebuild.select.climb.MEASURED", 5)
    measured = table(EVEN)
    outcome = go(measured, [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=25.0))
    assert sum(limit == 4 for _, limit in measured.judged) == 5
    assert outcome.chosen.score.sqnr_db < 26.0  # the others are known as well: all are alike


def test_static_products_stay_so_where_nothing_else_pays(go: Any) -> None:
    heard = {name: 1.0 if name == "layer7" else 1e-9 for name in LAYERS}
    outcome = go(table(heard), [placement("p", a=True)], bases=bases(), budget=Budget(min_sqnr_db=33.5))
    (changed,) = (name for name, mode in outcome.chosen.plan.modes.items() if mode != "static")
    assert changed == "layer7"
    assert outcome.chosen.plan.smoothing.splits == {activation("layer7"): SPLIT}
    assert outcome.chosen.plan.smoothing.alphas[activation("layer7")] == 0.35
    assert outcome.chosen.name == f"p, {outcome.chosen.method}, forms by sensitivity, 1 split"


def test_layers_that_are_no_products_go_back_to_float_as_a_whole(go: Any) -> None:
    forms = tuned()
    known = activation("layer0")
    few = replace(forms, forms={known: FORMS}, products={known: forms.products[known]})
    smoothed = replace(base("smoothed"), smoothing=forms.tuning(forms.cheap()).smoothing, tuned=few)
    heard = {name: 1.0 if name in ("layer0", "layer5") else 1e-9 for name in LAYERS}
    outcome = go(
        table(heard),
        [placement("p", "dynamic")],
        bases=[lambda: base("plain"), lambda: smoothed],
        budget=Budget(min_sqnr_db=39.0),
    )
    assert outcome.chosen.reverted == ("layer5",)
    assert outcome.chosen.plan.modes["layer0"] == "blockwise"


def test_means_of_channels_that_are_prepared_otherwise_are_given_up(go: Any) -> None:
    heard = {name: 1.0 if name == "layer7" else 1e-9 for name in LAYERS}
    means = dict.fromkeys(LAYERS, (0.0,) * 16)

    def sqnr(plan: Plan, limit: int | None) -> float:
        return -10 * math.log10(noise_of(plan, heard)) + (0.1 if plan.means else 0.0)

    outcome = go(
        Table(sqnr=sqnr),
        [placement("p", "dynamic")],
        bases=bases(means=lambda: means),
        budget=Budget(min_sqnr_db=39.0),
    )
    assert set(outcome.chosen.plan.means) == set(LAYERS) - {"layer7"}


class Solver:
    """Gives every layer a rounding, and keeps account of what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, smoothing: Smoothing | None, names: Any, schemes: Any, seconds: float) -> Any:
        self.asked.append(tuple(names))
        return {name: {"7" if scheme.reduce_range else "8": "AA==" for scheme in schemes} for name in names}


def shared(solver: Solver, seconds: float = 100.0) -> SharedRoundings:
    schemes = [SCHEME, replace(SCHEME, reduce_range=True)]
    return SharedRoundings(solver, {n: activation(n) for n in LAYERS}, SCHEME, schemes, seconds)


def test_candidates_share_the_roundings_of_layers_whose_form_is_the_same(go: Any) -> None:
    solver = Solver()
    measured = table(EVEN)
    outcome = go(measured, [placement("p", "dynamic")], bases=bases(shared(solver)), budget=Budget(min_sqnr_db=21.0))
    plan = outcome.chosen.plan
    rounded = {name for name, mode in plan.modes.items() if mode != "blockwise"}
    assert set(plan.roundings) == rounded
    assert all(set(keys) == {"7", "8"} for keys in plan.roundings.values())
    judged = [plan for plan, limit in measured.judged if limit == 32 and plan.roundings]
    assert len(judged) >= 2
    forms = {(n, p.smoothing.alphas[activation(n)]) for p in judged if p.smoothing for n in p.roundings}  # type: ignore[union-attr]
    assert sum(map(len, solver.asked)) == len(forms) + len(rounded)  # these once more, for the other scheme
    assert all(set(keys) == {"8"} for plan in judged for keys in plan.roundings.values())


def test_roundings_stop_when_their_time_is_over() -> None:
    solver = Solver()
    forms = tuned()
    plan = Plan(modes=dict.fromkeys(LAYERS, "dynamic"), smoothing=forms.tuning(forms.cheap()).smoothing)
    none = shared(solver, seconds=0.0)
    assert none.judged(plan) == none.all_schemes(plan) == {}
    assert solver.asked == []


@pytest.mark.parametrize("needed", [0, 3, 9])
def test_a_users_own_score_is_followed_without_a_prediction(go: Any, needed: int) -> None:
    """Its score holds once so many layers are blockwise; noise says nothing about it."""

    class Own(Table):
        def score(self, graph: Any, *, limit: int | None = None, evaluate: bool = True) -> Any:
            score = super().score(graph, limit=limit, evaluate=evaluate)
            plan = self.files[graph]
            good = plan.smoothing is not None and plan.count("blockwise") + 16 - len(plan.modes) >= needed
            return replace(score, value=0.9 if good else 0.8, float_value=0.9) if evaluate else score

    measured = Own(sqnr=lambda plan, limit: -10 * math.log10(max(noise_of(plan, UNEVEN), 1e-12)))
    outcome = go(measured, [placement("p", "dynamic")], bases=bases())
    assert outcome.chosen is not None
    chosen = outcome.chosen.plan
    assert chosen.count("blockwise") + 16 - len(chosen.modes) == needed
    assert measured.evaluations() <= 24


def test_what_fits_in_the_search_and_not_on_all_data_climbs_on(go: Any) -> None:
    def sqnr(plan: Plan, limit: int | None) -> float:
        return -10 * math.log10(noise_of(plan, EVEN)) - (1.0 if limit is None else 0.0)

    outcome = go(Table(sqnr=sqnr), [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=24.0))
    assert outcome.chosen is not None
    assert 24.0 <= outcome.chosen.score.sqnr_db < 25.5


def test_what_no_form_can_hold_is_said(go: Any) -> None:
    outcome = go(table(EVEN), [placement("p", "dynamic")], bases=bases(), budget=Budget(min_sqnr_db=200.0))
    assert outcome.chosen is None
    assert (
        "nothing fits the accuracy budget; the nearest is p, forms by sensitivity, 15 of 16 layers float"
        in outcome.reason
    )


@pytest.mark.parametrize(("layers", "measured_alone"), [(16, 16), (12, 16 + 12)])
def test_placements_of_the_same_layers_are_climbed_once(go: Any, layers: int, measured_alone: int) -> None:
    """Static and dynamic products are two starts of the same forms."""
    both = [placement("static", a=True), placement("dynamic", "dynamic", layers=LAYERS[:layers])]

    def speed(plan: Plan) -> float:
        changed = plan.count("blockwise") + len(plan.smoothing.splits if plan.smoothing else ())
        return 2.0 - 0.05 * changed

    measured = table(EVEN, speed=speed)
    outcome = go(measured, both, bases=bases(), budget=Budget(min_sqnr_db=22.0), evaluations=96)
    assert outcome.chosen is not None
    assert sum(limit == 4 for _, limit in measured.judged) == measured_alone
