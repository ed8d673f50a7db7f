"""What the graph passes did, and on request what each gains in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgebuild.errors import EdgebuildError
from edgebuild.graph.io import load_model, save_model
from edgebuild.graph.optimize import optimize
from edgebuild.quantize.running import OpenGraph
from edgebuild.select.measure import Comparison, compare


@dataclass(frozen=True, kw_only=True)
class PassExplanation:
    """What one pass did.

    Args:
        name: Of the pass.
        runs: How often it looked.
        rewrites: How often it fired.
        nodes_removed: Nodes that went, over all runs; below 0: nodes that came.
        gain: Time of one inference without the pass over that with it; None: not measured.
        note: Why there is no gain to measure; empty: nothing to say.
    """

    name: str
    runs: int
    rewrites: int
    nodes_removed: int
    gain: Comparison | None = None
    note: str = ""


def passes_of(entries: Sequence[Mapping[str, Any]]) -> tuple[PassExplanation, ...]:
    """From a report's entries, in the order of their first run."""
    return tuple(
        PassExplanation(
            name=str(entry["pass"]),
            runs=int(entry["runs"]),
            rewrites=int(entry["rewrites"]),
            nodes_removed=int(entry["nodes_removed"]),
        )
        for entry in entries
    )


def measure_passes(
    passes: Sequence[PassExplanation],
    onnx: Path,
    feeds: Mapping[str, Any],
    open_graph: OpenGraph,
    folder: Path,
    *,
    opset_max: int,
    fused_operators: Sequence[str],
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
    rounds: int = 15,
    seconds: float = 3.0,
) -> tuple[PassExplanation, ...]:
    """Times the graph without each pass that fired against the graph with all, in turn, in processor time.

    A pass that others do the work of gains nothing alone; what is measured is what would be lost without it.

    Args:
        passes: From ``passes_of``.
        onnx: The exported model.
        feeds: One set of inputs by the graph's names.
        open_graph: How a graph is run.
        folder: For the graphs.
        opset_max: Of the backend.
        fused_operators: That the backend has.
        progress: Hears what is being done.
        rounds: Pairs of measurements at most.
        seconds: Time for each pass after which no further pair begins.
    """

    def write(name: str, skip: Sequence[str]) -> Path:
        path = folder / f"{name}.onnx"
        result = optimize(
            load_model(onnx), target_opset_max=opset_max, fused_operators=fused_operators, skip=frozenset(skip)
        )
        save_model(result.model, path)
        return path

    found = []
    everything = write("all", ())
    with open_graph(everything) as base:
        for index, entry in enumerate(passes):
            progress(f"time without {entry.name}", index, len(passes))
            try:
                path = write("without", [entry.name])
                if path.read_bytes() == everything.read_bytes():
                    found.append(replace(entry, note="the graph is the same without it"))
                    continue
                with open_graph(path) as other:
                    gain = compare(
                        lambda other=other: other.run(feeds),  # type: ignore[misc]
                        lambda: base.run(feeds),
                        rounds=rounds,
                        seconds=seconds,
                    )
                found.append(replace(entry, gain=gain))
            except EdgebuildError as error:
                found.append(replace(entry, note=f"nothing runs without it: {error.message}"))
    return tuple(found)
