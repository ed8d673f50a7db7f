"""The workbench: runs candidates against the float graph on data kept apart; accuracy always, speed where this machine can."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgebuild.errors import GateError, UsageError
from edgebuild.model.resolve import first_line
from edgebuild.quantize.running import GraphRunner, OpenGraph
from edgebuild.select.budget import Score
from edgebuild.select.measure import Comparison, compare
from edgebuild.select.metrics import ScoreCounter

Arrays = Mapping[str, npt.NDArray[Any]]
Predict = Callable[[Arrays], Arrays]
Evaluate = Callable[[Predict], float]
"""The user's own score of a predict function, which takes and gives arrays by the signature's names; more is better."""

_KEPT_BYTES = 512 * 2**20
"""Reference outputs beyond this are computed anew each time."""


class Workbench:
    """Holds the float graph and the data that candidates are judged by.

    Args:
        graph: The float graph.
        batches: Held-out data, read again for each candidate: by the graph's input names.
        outputs: The graph's output names, with the signature's name of each.
        inputs: The signature's name of each of the graph's inputs.
        open_graph: How a graph is run.
        evaluate: The user's own score; None: the outputs are compared.
    """

    def __init__(
        self,
        graph: Path,
        batches: Callable[[], Iterator[Arrays]],
        *,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        open_graph: OpenGraph,
        evaluate: Evaluate | None = None,
    ) -> None:
        self._batches = batches
        self._inputs = dict(inputs)
        self._outputs = dict(outputs)
        self._open = open_graph
        self._evaluate = evaluate
        self._stack = ExitStack()
        self._float: GraphRunner = self._stack.enter_context(open_graph(graph))
        self._kept: list[Arrays] = []
        self._keep_until = self._keep()
        self._float_value: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def score(self, graph: Path, *, limit: int | None = None, evaluate: bool = True) -> Score:
        """A candidate's outputs against the float graph's.

        Args:
            graph: The candidate, with the float graph's inputs and outputs.
            limit: Only this many batches, from the first; the user's own score sees what it asks for.
            evaluate: Whether the user's own score is asked for too.

        Raises:
            GateError: There is no batch.
            UsageError: The user's function fails, or gives no finite number.
        """
        counter = ScoreCounter(list(self._outputs.values()))
        count = 0
        with self._open(graph) as runner:
            for index, batch in enumerate(self._batches()):
                if limit is not None and index >= limit:
                    break
                counter.add(self._named(self._reference(index, batch)), self._named(runner.run(batch)))
                count += 1
            if count == 0:
                msg = "there is no held-out data to judge the quantised model by"
                raise GateError(msg)
            value = self._value(runner) if evaluate else None
        return Score(
            outputs=counter.scores(), value=value, float_value=self._float_score() if value is not None else None
        )

    def compare(self, graph: Path, *, rounds: int = 15, seconds: float = 4.0) -> Comparison:
        """Time of one inference, the float graph first; above 1: the candidate is faster."""
        batch = next(iter(self._batches()))
        with self._open(graph) as runner:
            return compare(lambda: self._float.run(batch), lambda: runner.run(batch), rounds=rounds, seconds=seconds)

    def _keep(self) -> int:
        size = 0
        for batch in self._batches():
            result = self._float.run(batch)
            size += sum(array.nbytes for array in result.values())
            if size > _KEPT_BYTES:
                break
            self._kept.append({name: np.array(array) for name, array in result.items()})
        return len(self._kept)

    def _reference(self, index: int, batch: Arrays) -> Arrays:
        return self._kept[index] if index < self._keep_until else self._float.run(batch)

    def _named(self, result: Arrays) -> dict[str, npt.NDArray[Any]]:
        return {name: np.asarray(result[graph_name]) for graph_name, name in self._outputs.items()}

    def _float_score(self) -> float | None:
        if self._float_value is None:
            self._float_value = self._value(self._float)
        return self._float_value

    def _value(self, runner: GraphRunner) -> float | None:
        if self._evaluate is None:
            return None

        def predict(inputs: Arrays) -> Arrays:
            missing = [name for name in self._inputs.values() if name not in inputs]
            if missing:
                msg = f"--eval: predict() lacks input '{missing[0]}', got {', '.join(map(repr, inputs))}"
                raise UsageError(msg, hint="give a dict with the signature's input names")
            feeds = {graph_name: np.asarray(inputs[name]) for graph_name, name in self._inputs.items()}
            return self._named(runner.run(feeds))

        try:
            value = float(self._evaluate(predict))
        except UsageError:
            raise
        except Exception as error:
            msg = f"--eval: the function failed: {type(error).__name__}: {first_line(error)}"
            raise UsageError(
                msg, hint="it gets predict(inputs) -> outputs, both dicts of arrays, and returns a number"
            ) from error
        if not np.isfinite(value):
            msg = f"--eval: the function returned {value}, expected a finite number"
            raise UsageError(msg, hint="more is better; a mean over no samples is NaN")
        return value
