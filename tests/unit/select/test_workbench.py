"""The workbench and the goldens' tolerances, with graphs that are plain functions."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebuild.errors import GateError, UsageError
from edgebuild.export.result import ExportedModel
from edgebuild.model.signature import Signature, TensorType, ValueSpec
from edgebuild.select import workbench as workbench_module
from edgebuild.select.metrics import ScoreCounter
from edgebuild.select.tolerances import golden_fit
from edgebuild.select.workbench import Workbench

Array = np.ndarray[Any, Any]
FLOAT = Path("float.onnx")
CANDIDATE = Path("candidate.onnx")


class Engine:
    """Opens functions as graphs; keeps account of what ran, and of what is still open."""

    def __init__(self, **graphs: Callable[[Array], Array]) -> None:
        self.graphs = graphs
        self.runs: dict[str, int] = dict.fromkeys(graphs, 0)
        self.open: list[str] = []

    @contextmanager
    def __call__(self, path: Path, **_: Any) -> Iterator["Engine.Runner"]:
        self.open.append(path.stem)
        try:
            yield Engine.Runner(self, path.stem)
        finally:
            self.open.remove(path.stem)

    class Runner:
        def __init__(self, engine: "Engine", name: str) -> None:
            self.engine, self.name = engine, name

        def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
            assert list(inputs) == ["g_x"]
            self.engine.runs[self.name] += 1
            return {"g_y": self.engine.graphs[self.name](inputs["g_x"]), "other": np.zeros(3)}


def batches(count: int = 5) -> Callable[[], Iterator[Mapping[str, Array]]]:
    def make() -> Iterator[Mapping[str, Array]]:
        random = np.random.default_rng(0)
        for _ in range(count):
            yield {"g_x": random.standard_normal((2, 6)).astype(np.float32)}

    return make


def bench(engine: Engine, *, count: int = 5, evaluate: Any = None) -> Workbench:
    return Workbench(
        FLOAT, batches(count), inputs={"g_x": "x"}, outputs={"g_y": "y"}, open_graph=engine, evaluate=evaluate
    )


def engine() -> Engine:
    return Engine(float=lambda x: x * 2, candidate=lambda x: x * 2 + np.float32(0.1) * np.sign(x))


@pytest.mark.parametrize(("limit", "judged"), [(None, 5), (3, 3), (99, 5)])
def test_outputs_are_scored_by_the_signatures_names_on_the_first_batches(limit: int | None, judged: int) -> None:
    opened = engine()
    with bench(opened) as found:
        score = found.score(CANDIDATE, limit=limit)
    counter = ScoreCounter(["y"])
    for batch in list(batches()())[:judged]:
        counter.add({"y": batch["g_x"] * 2}, {"y": opened.graphs["candidate"](batch["g_x"])})
    assert score.outputs == counter.scores()
    assert score.value is None
    assert score.drop is None
    assert opened.runs["candidate"] == judged


def test_the_float_graph_runs_once_however_many_candidates_there_are() -> None:
    opened = engine()
    with bench(opened) as found:
        scores = [found.score(CANDIDATE) for _ in range(3)]
    assert opened.runs["float"] == 5
    assert scores[0] == scores[1] == scores[2]
    assert opened.open == []


@pytest.mark.parametrize("kept", [0, 1, 100, 48 * 2])
def test_references_that_do_not_fit_in_memory_are_computed_anew(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(engine()) as found:
        want = found.score(CANDIDATE)
    monkeypatch.setattr(workbench_module, "_KEPT_BYTES", kept)
    opened = engine()
    with bench(opened) as found:
        assert found.score(CANDIDATE) == want
    assert opened.runs["float"] > 5


def test_outputs_kept_are_not_changed_by_the_next_run() -> None:
    buffer = np.zeros((2, 6), np.float32)

    def reuses(x: Array) -> Array:
        buffer[:] = x * 2
        return buffer

    with bench(Engine(float=reuses, candidate=lambda x: x * 2)) as found:
        assert found.score(CANDIDATE).sqnr_db == np.inf


def test_no_data_is_no_verdict() -> None:
    with bench(engine(), count=0) as found, pytest.raises(GateError, match="no held-out data"):
        found.score(CANDIDATE)


def test_the_float_graph_is_closed_where_something_fails() -> None:
    opened = engine()
    with pytest.raises(UsageError), bench(opened, evaluate=fails) as found:
        found.score(CANDIDATE)
    assert opened.open == []


def test_the_users_score_is_asked_of_both_and_of_float_once() -> None:
    asked: list[float] = []

    def evaluate(predict: Any) -> Any:
        result = predict({"x": np.ones((1, 6), np.float32)})
        assert list(result) == ["y"]
        asked.append(float(result["y"].sum()))
        return np.float32(asked[-1] / 24)

    with bench(engine(), evaluate=evaluate) as found:
        first, second = found.score(CANDIDATE), found.score(CANDIDATE)
    assert (first.value, first.float_value) == pytest.approx((12.6 / 24, 0.5))
    assert first.drop == pytest.approx(-0.6 / 24, rel=1e-5)
    assert (second.value, second.float_value) == (first.value, first.float_value)
    assert len(asked) == 3


def fails(predict: Any) -> float:
    raise KeyError(len("three"))


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (lambda predict: float("nan"), "returned nan, expected a finite number"),
        (lambda predict: "many", "the function failed: ValueError"),
        (lambda predict: None, "the function failed: TypeError"),
        (fails, "the function failed: KeyError: 5"),
        (lambda predict: predict({"g_x": 1}), r"lacks input 'x', got 'g_x'"),
    ],
)
def test_a_users_function_that_fails_is_named(evaluate: Any, words: str) -> None:
    with bench(engine(), evaluate=evaluate) as found, pytest.raises(UsageError, match=words):
        found.score(CANDIDATE)


def test_speed_is_that_of_both_graphs_on_one_batch() -> None:
    opened = engine()
    with bench(opened) as found:
        before = opened.runs["float"]
        result = found.compare(CANDIDATE, rounds=7, seconds=0.0)
    assert result.rounds == 7
    assert result.base_ms > 0
    assert opened.runs["candidate"] >= 7
    assert opened.runs["float"] - before >= 7
    assert opened.open == []


def exported(folder: Path, samples: list[tuple[Array, Array]], dtype: str = "float32") -> ExportedModel:
    (folder / "samples").mkdir()
    for index, (x, y) in enumerate(samples):
        np.savez(folder / "samples" / f"{index}.npz", **{"in.0": x, "in.1": x, "out.0": y})
    x_spec, unused = (ValueSpec(name=n, type=TensorType(dtype="float32", shape=(None, 6))) for n in ("x", "unused"))
    y_spec = ValueSpec(name="y", type=TensorType(dtype=dtype, shape=(None, 6)))
    return ExportedModel(
        directory=folder,
        name="m",
        kind="test",
        signature=Signature(inputs=(x_spec, unused), outputs=(y_spec,), symbols={}),
        engine_inputs=("g_x", None),
        engine_outputs=("g_y",),
        exporter="test",
        opset=17,
        attempts=(),
        parity=(),
        tolerances={"y": (1e-5, 1e-4)},
        sample_count=len(samples),
        assumptions=(),
        notes=(),
        original_latency_ms=None,
        producer={},
    )


def samples(count: int = 3) -> list[tuple[Array, Array]]:
    return [(batch["g_x"], batch["g_x"] * 2) for batch in batches(count)()]


def test_goldens_are_held_to_half_more_than_the_worst_error(tmp_path: Path) -> None:
    given = samples()
    found = golden_fit(exported(tmp_path, given), CANDIDATE, engine())
    worst = max(float(np.max(np.abs(engine().graphs["candidate"](x) - y))) for x, y in given)
    assert found.tolerances["y"] == (pytest.approx(1.5 * worst), 1e-4)


def test_the_noise_on_the_goldens_is_told(tmp_path: Path) -> None:
    given = samples()
    found = golden_fit(exported(tmp_path, given), CANDIDATE, engine())
    pairs = [(y, engine().graphs["candidate"](x)) for x, y in given]
    noise = sum(float(np.sum((got - want) ** 2)) for want, got in pairs)
    assert found.sqnr_db == pytest.approx(10 * np.log10(sum(float(np.sum(want**2)) for want, _ in pairs) / noise))


def test_goldens_are_never_held_tighter_than_the_float_ones(tmp_path: Path) -> None:
    found = golden_fit(exported(tmp_path, samples()), CANDIDATE, Engine(candidate=lambda x: x * 2))
    assert found.tolerances == {"y": (1e-5, 1e-4)}
    assert found.sqnr_db == np.inf


def test_infinities_of_a_golden_widen_nothing(tmp_path: Path) -> None:
    given = samples(1)
    given[0][1][0, 0] = np.inf
    found = golden_fit(exported(tmp_path, given), CANDIDATE, Engine(candidate=lambda x: x * 2))
    assert found.tolerances == {"y": (1e-5, 1e-4)}


def test_integer_goldens_that_differ_here_get_room(tmp_path: Path) -> None:
    given = [(x, np.asarray([[4, 5]])) for x, _ in samples(2)]
    found = golden_fit(exported(tmp_path, given, "int64"), CANDIDATE, Engine(candidate=lambda x: np.asarray([[4, 7]])))
    assert found.tolerances["y"] == (3.0, 1e-4)
