"""Where noise grows on its way through a graph: the float graph and the quantised one run side by side, value by value."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.io import load_model, save_model
from edgebuild.graph.passes.dead_code import DeadCodeElimination
from edgebuild.graph.values import constant_tensor
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import find_layers
from edgebuild.quantize.running import OpenGraph

Batch = Mapping[str, npt.NDArray[Any]]

_MOST_VALUES = 300
_QUIET = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "Identity",
        "Cast",
        "Shape",
        "Relu",
        "LeakyRelu",
        "Clip",
        "MaxPool",
        "Slice",
        "Split",
    }
)
"""Operators that move or choose values and add nothing: where they leave the signal out, noise over signal grows for no fault of theirs."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Noise over signal before and behind one operator that is no layer: what it reads at worst, and what it gives.

    ``share``: how much of the output's noise comes through it; 1 if nobody has looked.
    """

    node: str
    operator: str
    value: str
    before: float
    after: float
    share: float = 1.0

    @property
    def factor(self) -> float:
        return self.after / max(self.before, 1e-12)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Noise over signal of values by name in the order of execution, and the operators that make it grow."""

    noise: Mapping[str, float]
    growths: tuple[Growth, ...]


def profile(graph: Path, candidate: Path, batches: Iterable[Batch], open_graph: OpenGraph, folder: Path) -> Profile:
    """Runs both graphs with what they have in common exposed.

    Args:
        graph: The float graph that the candidate was made from.
        candidate: The quantised one; values that are the same keep their names.
        batches: By the graph's input names.
        open_graph: How a graph is run.
        folder: For the exposed graphs; removed.
    """
    exact, quantised = load_model(graph), load_model(candidate)
    pairs = _pairs(exact.graph, quantised.graph)
    nodes = _operators(exact.graph, quantised.graph, pairs)
    wanted = {name: None for _, ins, outs in nodes for name, _ in (*ins, *outs)}
    others = {other: None for _, ins, outs in nodes for _, other in (*ins, *outs)}
    for name in pairs:
        if len(wanted) < _MOST_VALUES:
            wanted.setdefault(name)
            others.setdefault(pairs[name])
    inputs = {value.name for value in exact.graph.inputs}
    inside = [[name for name in names if name not in inputs] for names in (list(wanted), list(others))]
    if not inside[0] or not inside[1]:
        return Profile(noise={}, growths=())
    sums: dict[tuple[str, str], list[float]] = {}
    asked = [(name, other) for _, ins, outs in nodes for name, other in (*ins, *outs)]
    asked += [(name, pairs[name]) for name in wanted if name in pairs]
    try:
        with ExitStack() as stack:
            runners = [
                stack.enter_context(open_graph(write_exposed(read_graph(path, names), names, folder / kind)))
                for path, names, kind in ((graph, inside[0], "float"), (candidate, inside[1], "int8"))
            ]
            for batch in batches:
                results = [{**batch, **runner.run(batch)} for runner in runners]
                for pair in dict.fromkeys(asked):
                    a, b = (np.asarray(side[name], np.float64) for side, name in zip(results, pair, strict=True))
                    if a.shape == b.shape:
                        entry = sums.setdefault(pair, [0.0, 0.0])
                        signal, error = _energies(a, b)
                        entry[0] += signal
                        entry[1] += error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    noise = {pair: entry[1] / entry[0] for pair, entry in sums.items() if entry[0] > 0}
    growths = []
    for node, ins, outs in nodes:
        before = [noise[pair] for pair in ins if pair in noise]
        after = [noise[pair] for pair in outs if pair in noise]
        if before and after:
            name = node.name or node.outputs[0].name or ""
            growths.append(
                Growth(node=name, operator=node.op_type, value=outs[0][0], before=max(before), after=max(after))
            )
    by_value = {name: noise[name, other] for name, other in pairs.items() if (name, other) in noise}
    return Profile(noise=by_value, growths=tuple(growths))


def share_through(
    graph: Path, candidate: Path, value: str, output: str, batches: Sequence[Batch], open_graph: OpenGraph, folder: Path
) -> float:
    """How much of the noise of an output comes through one value: what is gone when the value is given exactly.

    Args:
        graph: The float graph that the candidate was made from.
        candidate: The quantised one.
        value: Of both.
        output: The graph's name of the output.
        batches: By the graph's input names.
        open_graph: How a graph is run.
        folder: For the graphs; removed.
    """
    if value == output:
        return 1.0
    model = load_model(candidate)
    old = next((v for node in model.graph for v in node.outputs if v.name == value), None)
    if old is None:
        return 0.0
    given = ir.Value(name=value, type=old.type, shape=old.shape)
    old.name = f"{value}_computed"
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, given)
    model.graph.inputs.append(given)
    for unused in [other for other in model.graph.outputs if other.name != output]:
        model.graph.outputs.remove(unused)
    DeadCodeElimination()(model)
    read = {v.name for v in model.graph.inputs if list(v.uses())}
    for unused in [other for other in model.graph.inputs if other.name not in read]:
        model.graph.inputs.remove(unused)
    noise = [0.0, 0.0]
    try:
        folder.mkdir(parents=True)
        save_model(model, folder / "given.onnx")
        with ExitStack() as stack:
            exact = stack.enter_context(
                open_graph(write_exposed(read_graph(graph, [value, output]), [value, output], folder / "a"))
            )
            whole = stack.enter_context(open_graph(candidate))
            cut = stack.enter_context(open_graph(folder / "given.onnx"))
            for batch in batches:
                wanted = exact.run(batch)
                feeds = {name: array for name, array in {**batch, value: wanted[value]}.items() if name in read}
                for index, got in enumerate((whole.run(batch)[output], cut.run(feeds)[output])):
                    difference = np.asarray(got, np.float64) - np.asarray(wanted[output], np.float64)
                    noise[index] += float(np.sum(difference**2, where=np.isfinite(difference)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return min(max(1 - noise[1] / noise[0], 0.0), 1.0) if noise[0] > 0 else 0.0


def _float(value: ir.Value | None) -> bool:
    return (
        value is not None
        and isinstance(value.type, ir.TensorType)  # a sequence has a dtype too, and no array
        and value.dtype == ir.DataType.FLOAT
        and constant_tensor(value) is None
        and bool(value.name)
    )


def _pairs(exact: ir.Graph, quantised: ir.Graph) -> dict[str, str]:
    """Values that both graphs compute, by the float graph's name, with the quantised one's."""
    have = {value.name for node in quantised for value in node.outputs if value.dtype in (ir.DataType.FLOAT, None)}
    return {
        value.name: value.name
        for node in exact
        for value in node.outputs
        if _float(value) and value.name is not None and value.name in have
    }


Names = list[tuple[str, str]]


def _operators(exact: ir.Graph, quantised: ir.Graph, pairs: Mapping[str, str]) -> list[tuple[ir.Node, Names, Names]]:
    """Nodes that are no part of a layer: with the names of what they read and give, in either graph."""
    layered = {node for layer in find_layers(exact) for node in layer.nodes}
    makers = {value.name: node for node in quantised for value in node.outputs}
    found = []
    for node in exact:
        output = node.outputs[0]
        other = makers.get(output.name)
        if node in layered or node.op_type in _QUIET or not _float(output) or other is None or output.name not in pairs:
            continue
        if other.op_type != node.op_type or len(other.inputs) != len(node.inputs):
            continue
        ins = [
            (a.name, b.name)
            for a, b in zip(node.inputs, other.inputs, strict=True)
            if a is not None and b is not None and _float(a) and a.name and b.name
        ]
        if ins:
            found.append((node, ins, [(output.name or "", output.name or "")]))
    return found[:_MOST_VALUES]


def _energies(value: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Sum of squares of ``value`` and of ``value - other``, over what is finite: a mask of an attention holds -infinity in both."""
    finite = np.isfinite(value) & np.isfinite(other)
    difference = np.subtract(value, other, out=np.zeros_like(value), where=finite)
    return float(np.sum(value * value, where=np.isfinite(value))), float(np.sum(difference * difference))
