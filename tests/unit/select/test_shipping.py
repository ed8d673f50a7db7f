"""What was chosen under one scheme, for CPUs of another: as it is where it holds, with more layers in float where not, or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_tools import LAYERS, SCHEME, Table, base, placement

from edgebuild.quantize.plan import Plan
from edgebuild.quantize.schemes import group_schemes
from edgebuild.select import search as search_module
from edgebuild.select import shipping
from edgebuild.select.search import Problem, search
from edgebuild.select.shipping import Shipped, ship
from edgebuild.select.tolerances import GoldenFit
from edgebuild.targets.spec import QuantizationScheme

NARROW = replace(SCHEME, reduce_range=True)
WIDE = replace(SCHEME, cpu_features=("vnni",))
GROUPS = group_schemes([WIDE, NARROW])


class Shop:
    """Ships what a search under the first scheme found; signal to noise is 30 dB, of 7 bits as many dB less as layers are integers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, graph: Path, loss: float) -> None:
        self.schemes: dict[Path, QuantizationScheme] = {}
        self.asked: list[QuantizationScheme] = []
        self.table = Table(sqnr=self.sqnr)
        self.folder = graph.parent
        self.loss = loss
        self.narrow = False
        self.groups = GROUPS
        for module in (search_module, shipping):
            monkeypatch.setattr(module, "write_candidate", self.write)
        monkeypatch.setattr(shipping, "golden_fit", lambda *arguments: GoldenFit(tolerances={}, sqnr_db=40.0))
        self.problem = Problem(
            graph=graph,
            placements=[placement("other", a=True), placement("best", b=True)],
            bases=[lambda: base("plain")],
            scheme=SCHEME,
            forms=None,  # type: ignore[arg-type]
            budget=search_module.Budget(),
            measurable=True,
            evaluations=24,
            folder=self.folder,
        )

    def write(self, graph: Path, plan: Plan, scheme: QuantizationScheme, forms: object, path: Path) -> Path:
        self.table.files[path], self.schemes[path] = plan, scheme
        self.narrow = scheme.reduce_range
        path.touch()
        return path

    def sqnr(self, plan: Plan, limit: int | None) -> float:
        if "b" not in plan.operators:
            return 5.0
        return 30.0 - (self.loss * len(plan.modes) if self.narrow else 0.0)

    def bases_for(self, scheme: QuantizationScheme) -> Any:
        self.asked.append(scheme)
        return [lambda: base("plain")]

    def ships(self, *features: str) -> tuple[Plan, Shipped]:
        outcome = search(self.problem, self.table)  # type: ignore[arg-type]
        assert outcome.chosen is not None
        shipped = ship(
            outcome.chosen,
            self.groups,
            self.groups[0],
            self.problem,
            self.bases_for,
            self.table,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            features,
        )
        return outcome.chosen.plan, shipped


@pytest.fixture
def graph(tmp_path: Path, go: Any) -> Path:
    return tmp_path / "graph.onnx"


def test_what_holds_for_all_schemes_is_searched_for_once(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    shop = Shop(monkeypatch, graph, loss=0.5)  # 8 of the 10 dB that there are to lose
    plan, shipped = shop.ships()
    assert [found.plan for found in shipped.graphs] == [plan, plan]
    assert [found.judged for found in shipped.graphs] == [True, False]
    assert [found.score is not None and found.score.sqnr_db for found in shipped.graphs] == [
        30.0,
        30.0 - 0.5 * len(LAYERS),
    ]
    assert [found.graph.name for found in shipped.graphs] == ["int8.onnx", "int8-7bit.onnx"]
    assert shop.asked == []
    assert not shipped.searches
    assert not shipped.left_out


def test_where_it_does_not_hold_more_layers_stay_float(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    shop = Shop(monkeypatch, graph, loss=1.0)  # 10 of 16 layers may be integers
    plan, shipped = shop.ships()
    first, second = shipped.graphs
    assert first.plan == plan
    assert len(plan.modes) == len(LAYERS)
    assert len(second.plan.modes) == 10
    assert second.plan.operators == plan.operators
    assert shop.asked == [NARROW]
    assert shop.schemes[second.graph] == NARROW
    timed = len(shop.table.timed)
    assert (
        timed == 2 + 1
    )  # each placement and the last word, all under the first scheme: this CPU's speed is not the other's
    (searched,) = shipped.searches.values()
    assert searched.chosen is not None
    assert searched.chosen.speed is None


def test_what_fits_in_no_form_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    shop = Shop(monkeypatch, graph, loss=15.0)
    plan, shipped = shop.ships()
    assert [found.plan for found in shipped.graphs] == [plan]
    assert set(shipped.searches) == {"-7bit"}
    (why,) = shipped.left_out
    assert why.startswith("not for CPUs without vnni: nothing fits the accuracy budget; the nearest is best, ")


def test_what_this_cpu_can_not_judge_is_not_searched_for(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    """A CPU without VNNI saturates on 8-bit weights: what is lost there says nothing about CPUs with it."""
    shop = Shop(monkeypatch, graph, loss=1.0)
    shop.groups = group_schemes([SCHEME, replace(NARROW, cpu_features=("vnni",))])
    _, shipped = shop.ships()
    assert shop.asked == []
    (why,) = shipped.left_out
    assert why.startswith("not for CPUs with vnni: output 'y': signal to noise ")
    _, shipped = shop.ships("vnni")
    assert shop.asked == [NARROW]
    assert len(shipped.graphs) == 2
