"""What the tests of the search share: a workbench by functions of the plan, placements, bases, and the search on a small graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
from edgebuild.select.trials import Outcome
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


def base(name: str) -> Base:
    return Base(name=name, smoothing=None, ranges=lambda: Ranges())  # type: ignore[arg-type, return-value]


def placement(name: str, mode: Mode = "static", layers: tuple[str, ...] = LAYERS, **operators: bool) -> Placement:
    return Placement(name=name, modes=dict.fromkeys(layers, mode), operators=frozenset(operators))


def by_operator(table: Mapping[str, float]) -> Callable[[Plan], float]:
    return lambda plan: next(value for name, value in table.items() if name in plan.operators)


TWO = [placement("slow", a=True), placement("fast", b=True), placement("middle", c=True)]
SPEEDS = by_operator({"a": 1.2, "b": 3.0, "c": 2.0})


def runner_of_searches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """A function that runs a search on a graph of 16 products whose candidates are never written."""
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
