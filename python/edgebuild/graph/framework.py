"""Passes over onnx_ir models whose contract is enforced, not trusted.

A pass says how many rewrites it did; ``modified`` follows from that. Sequences and fixed points are passes too. Under
``checked_passes()`` (tests; ``EDGEBUILD_CHECK_PASSES=1``) every pass is followed by a check of the whole graph, of the
interface, and of the truth of ``modified``; the borders of the stage are always checked (optimize.py).
"""

import abc
import contextlib
import contextvars
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgebuild.errors import EdgebuildError, InternalError
from edgebuild.graph.invariants import GraphInterface, check_graph, fingerprint

_checking: contextvars.ContextVar[bool | None] = contextvars.ContextVar("edgebuild_check_passes", default=None)


@contextlib.contextmanager
def checked_passes(enabled: bool = True) -> Iterator[None]:
    """Check the contract of every pass that runs in this context, not only the stage's borders."""
    token = _checking.set(enabled)
    try:
        yield
    finally:
        _checking.reset(token)


def passes_are_checked() -> bool:
    """Whether every pass is checked: by ``checked_passes``, else by ``EDGEBUILD_CHECK_PASSES``."""
    chosen = _checking.get()
    return os.environ.get("EDGEBUILD_CHECK_PASSES", "0") not in ("", "0") if chosen is None else chosen


@dataclass(frozen=True, kw_only=True)
class PassRecord:
    """One run of one pass: rewrites that fired, nodes before and after (all graphs), wall time in seconds."""

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """Every run of every pass, in order."""

    records: tuple[PassRecord, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the passes want the user to know, each once, in order."""
        return tuple(dict.fromkeys(note for record in self.records for note in record.notes))

    def rewrites(self, name: str) -> int:
        """How often the pass of this name fired, over all its runs."""
        return sum(record.rewrites for record in self.records if record.name == name)

    def to_json(self, *, timings: bool = True) -> dict[str, Any]:
        """One entry a pass, in order of its first run; without timings it is the same for the same model."""
        entries: dict[str, dict[str, Any]] = {}
        for record in self.records:
            entry = entries.setdefault(
                record.name, {"pass": record.name, "runs": 0, "rewrites": 0, "nodes_removed": 0, "seconds": 0.0}
            )
            entry["runs"] += 1
            entry["rewrites"] += record.rewrites
            entry["nodes_removed"] += record.nodes_before - record.nodes_after
            entry["seconds"] += record.seconds
        if not timings:
            for entry in entries.values():
                del entry["seconds"]
        return {
            "nodes_before": self.records[0].nodes_before if self.records else 0,
            "nodes_after": self.records[-1].nodes_after if self.records else 0,
            "passes": list(entries.values()),
            "notes": list(self.notes),
        }


@dataclass
class GraphPassResult(ir.passes.PassResult):
    """An onnx_ir result that also says what ran."""

    records: tuple[PassRecord, ...] = field(default=(), kw_only=True)


class GraphPass(ir.passes.InPlacePass):
    """Base of every pass: implement ``name`` and ``rewrite``.

    ``rewrite`` changes the model in place and returns the number of rewrites that fired, 0 only if it changed nothing.
    Any exception but an ``EdgebuildError`` becomes an ``InternalError`` that names the pass.
    """

    interface_may_change = False
    """For the few passes whose purpose is the interface; all others keep names, order, dtypes and axes."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[str] = []

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A short name in kebab case, for reports and errors."""

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> int:
        """Change the model in place; returns how many rewrites fired."""

    def note(self, text: str) -> None:
        """Put a line for the user into the report."""
        self._notes.append(text)

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> GraphPassResult:
        model = model_or_result.model if isinstance(model_or_result, ir.passes.PassResult) else model_or_result
        checking = passes_are_checked()
        interface = GraphInterface.of(model) if checking else None
        before = fingerprint(model) if checking else None
        try:
            result = super().__call__(model)
            if not isinstance(result, GraphPassResult):
                msg = "its result has no records"
                raise TypeError(msg)
            if checking:
                check_graph(model)
        except EdgebuildError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, EdgebuildError):  # raised by requires(), wrapped by onnx_ir
                raise cause from None
            msg = f"graph pass '{self.name}' failed: {type(cause).__name__}: {cause}"
            raise InternalError(msg, hint="please report this with the model") from error
        if interface is not None:
            changed = interface.difference(GraphInterface.of(model))
            if changed and not self.interface_may_change:
                self._broke(f"{changed}")
            if (fingerprint(model) != before) != result.modified:
                self._broke("it changed the model and did not say so" if not result.modified else "it changed nothing")
        return result

    def _broke(self, what: str) -> None:
        msg = f"graph pass '{self.name}' broke its contract: {what}"
        raise InternalError(msg, hint="please report this with the model")

    def call(self, model: ir.Model) -> GraphPassResult:
        self._notes = []
        before = count_nodes(model)
        start = time.perf_counter()
        rewrites = self.rewrite(model)
        record = PassRecord(
            name=self.name,
            rewrites=rewrites,
            nodes_before=before,
            nodes_after=count_nodes(model),
            seconds=time.perf_counter() - start,
            notes=tuple(self._notes),
        )
        return GraphPassResult(model, rewrites > 0, records=(record,))


class Adapted(GraphPass):
    """A pass of onnx_ir or onnxscript under our contract.

    Theirs do not always tell the truth about ``modified`` (metadata, inferred shapes), so it is measured.
    """

    def __init__(self, name: str, apply: Callable[[ir.Model], object], *, interface_may_change: bool = False) -> None:
        super().__init__()
        self._name = name
        self._apply = apply
        self.interface_may_change = interface_may_change

    @property
    def name(self) -> str:
        return self._name

    def rewrite(self, model: ir.Model) -> int:
        before = fingerprint(model)
        self._apply(model)
        return int(fingerprint(model) != before)


class PassSequence(GraphPass):
    """Runs passes in order."""

    def __init__(self, name: str, passes: Sequence[GraphPass]) -> None:
        super().__init__()
        self._name = name
        self.passes = tuple(passes)
        self.interface_may_change = any(step.interface_may_change for step in self.passes)

    @property
    def name(self) -> str:
        return self._name

    def rewrite(self, model: ir.Model) -> int:
        raise NotImplementedError  # call() is replaced: a sequence has its passes' records, none of its own

    def call(self, model: ir.Model) -> GraphPassResult:
        records: list[PassRecord] = []
        modified = False
        for step in self.passes:
            result = step(model)
            records.extend(result.records)
            modified |= result.modified
        return GraphPassResult(model, modified, records=tuple(records))


class FixedPoint(PassSequence):
    """Repeats a sequence until a round changes nothing, at most ``limit`` rounds; a note says if that did not do."""

    def __init__(self, name: str, passes: Sequence[GraphPass], *, limit: int) -> None:
        super().__init__(name, passes)
        if limit < 1:
            msg = f"a fixed point needs at least one round, got {limit}"
            raise ValueError(msg)
        self.limit = limit

    def call(self, model: ir.Model) -> GraphPassResult:
        records: tuple[PassRecord, ...] = ()
        for round_ in range(self.limit):
            result = super().call(model)
            records += result.records
            if not result.modified:
                return GraphPassResult(model, round_ > 0, records=records)
        last = dataclasses.replace(
            records[-1], notes=(*records[-1].notes, f"{self.name}: still changing after {self.limit} rounds, stopped")
        )
        return GraphPassResult(model, True, records=(*records[:-1], last))


def count_nodes(model: ir.Model) -> int:
    """Nodes of all graphs, bodies and functions."""
    return sum(1 for _ in model.graph.all_nodes()) + sum(
        1 for function in model.functions.values() for _ in function.all_nodes()
    )
