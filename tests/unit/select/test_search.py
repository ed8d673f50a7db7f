"""The search, with a workbench whose speeds and scores come from a table: what it chooses, what it spends, what it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgebuild.quantize.insert import Forms
from edgebuild.quantize.placements import Placement
from edgebuild.quantize.plan import Mode, Plan
from edgebuild.quantize.ranges import RangeMethod
from edgebuild.select import search as search_module
from edgebuild.select.bases import Base
from edgebuild.select.budget import Budget, Score
from edgebuild.select.measure import Comparison
from edgebuild.select.metrics import OutputScore
from edgebuild.select.search import METHODS, Problem, search
from edgebuild.select.trials import Outcome, noise_share
from edgebuild.targets.spec import QuantizationScheme

SCHEME = QuantizationScheme(
    activation="uint8",
    weight="int8",
    symmetric_activations=False,
    per_channel=True,
    reduce_range=False,
    cpu_features=(),
)
LAYERS = tuple(f"layer{index}" for index in range(16))


def comparison(ratio: float) -> Comparison:
    return Comparison(base_ms=ratio, other_ms=1.0, ratio=ratio, low=ratio, high=ratio, rounds=9)


def scored(sqnr: float, agreement: float | None = None) -> Score:
    output = OutputScore(
        output="y",
        sqnr_db=sqnr,
        cosine=1.0,
        max_abs_error=0.0,
        decisions=100 if agreement is not None else 0,
        agreement=agreement,
        near_ties=0,
    )
    return Score(outputs=(output,))


@dataclass
class Ranges:
    """Stands for a RangeChooser: the range says by which method it was chosen."""

    def ranges(self, method: RangeMethod) -> dict[str, tuple[float, float]]:
        return {"x": (-float(METHODS.index(method)) - 1, 1.0)}


def method_of(plan: Plan) -> str | None:
    return METHODS[int(-plan.ranges["x"][0]) - 1] if plan.ranges else None


@dataclass
class Table:
    """A Workbench by functions of the plan, which keeps account of what it is asked."""

    sqnr: Callable[[Plan, int | None], float]
    speed: Callable[[Plan], float] = lambda plan: 2.0
    files: dict[Path, Plan] = field(default_factory=dict)
    judged: list[tuple[Plan, int | None]] = field(default_factory=list)
    timed: list[Plan] = field(default_factory=list)

    def score(self, graph: Path, *, limit: int | None = None, evaluate: bool = True) -> Score:
        self.judged.append((self.files[graph], limit))
        return scored(self.sqnr(self.files[graph], limit))

    def compare(self, graph: Path, *, rounds: int = 15, seconds: float = 4.0) -> Comparison:
        self.timed.append(self.files[graph])
        return comparison(self.speed(self.files[graph]))

    def evaluations(self) -> int:
        """Candidates judged in the search: neither the order of layers (4 batches) nor the final word (all) counts."""
        return sum(limit not in (None, 4) for _, limit in self.judged)


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a search on a graph of 16 products whose candidates are never written."""
    graph = tmp_path / "graph.onnx"
    nodes, value = [], ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 16]))
    inputs = [value]
    weights = []
    for name in LAYERS:
        tensor = ir.tensor(np.ones((16, 16), np.float32), name=f"{name}_w")
        weight = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        weights.append(weight)
        nodes.append(ir.node("MatMul", [value, weight], name=name))
        value = nodes[-1].outputs[0]
        value.name, value.type, value.shape = f"{name}_y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 16])
    ir.save(
        ir.Model(
            ir.Graph(inputs, [value], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="g"), ir_version=8
        ),
        graph,
    )

    def run(
        table: Table,
        placements: list[Placement],
        *,
        bases: list[Callable[[], Base | None]] | None = None,
        measurable: bool = True,
        evaluations: int = 24,
        budget: Budget | None = None,
    ) -> Outcome:
        def write(graph: Path, plan: Plan, scheme: object, forms: object, path: Path) -> Path:
            table.files[path] = plan
            return path

        monkeypatch.setattr(search_module, "write_candidate", write)
        problem = Problem(
            graph=graph,
            placements=placements,
            bases=bases or [lambda: base("plain")],
            scheme=SCHEME,
            forms=Forms(fused_products=True),
            budget=budget or Budget(),
            measurable=measurable,
            evaluations=evaluations,
            folder=tmp_path,
        )
        return search(problem, table)  # type: ignore[arg-type]

    return run


def base(name: str) -> Base:
    return Base(name=name, smoothing=None, ranges=lambda: Ranges())  # type: ignore[arg-type, return-value]


def placement(name: str, mode: Mode = "static", layers: tuple[str, ...] = LAYERS, **operators: bool) -> Placement:
    return Placement(name=name, modes=dict.fromkeys(layers, mode), operators=frozenset(operators))


def by_operator(table: Mapping[str, float]) -> Callable[[Plan], float]:
    return lambda plan: next(value for name, value in table.items() if name in plan.operators)


TWO = [placement("slow", a=True), placement("fast", b=True), placement("middle", c=True)]
SPEEDS = by_operator({"a": 1.2, "b": 3.0, "c": 2.0})


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
