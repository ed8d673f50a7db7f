"""Which rows of activations the model's outputs depend on: sequences are padded, and what rounding does to padding nobody hears.

Rows at an end of the sequence are changed in everything that products read, all at once; where no output changes, none of them is heard. How
many there are is found by bisection, for each sample. This asks nothing of the model: neither how it is told what is padding, nor on which side
it lies. On MiniLM and first sentences of docstrings six rows in seven are padding, and tuning for them costs 1 to 2 dB.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgebuild.graph.io import load_model, save_model
from edgebuild.quantize.editor import GraphEditor
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.smooth import smoothable

_CHANGE = 0.5
"""Part of its value by which each channel goes up or down."""

_UNHEARD = 1e-6
"""Of the largest magnitude of an output: what masked rows change is zero, but an engine may sum in another order."""

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]
Arrays = Mapping[str, Array]
_Count = npt.NDArray[np.int64]


def heard_rows(
    graph: Path,
    shapes: Sequence[Mapping[str, tuple[int, ...]]],
    batches: Sequence[Arrays],
    open_graph: OpenGraph,
    folder: Path,
) -> tuple[frozenset[str], list[Flags]]:
    """The rows of activations that are heard.

    Args:
        graph: ONNX file of the float graph.
        shapes: Of each batch, those of the activations that products read, by name.
        batches: By the graph's input names.
        open_graph: How a graph is run.
        folder: Where a graph lies meanwhile; must not exist.

    Returns:
        Names of activations ``(B, S, K)`` that could be looked into (all rows of others count as heard), and for each batch which rows of
        them are heard, ``(B, S)``; no names if all are.
    """
    names = _alike(shapes)
    if not names:
        return frozenset(), []
    try:
        path, mask_name = _write(graph, names, folder)
        found = []
        with open_graph(path) as runner:
            for batch, of in zip(batches, shapes, strict=True):
                samples, rows, _ = of[next(iter(names))]
                search = _Search(lambda mask, batch=batch: runner.run({**batch, mask_name: mask}), samples, rows)  # type: ignore[misc]
                found.append(search.heard())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return (names if not all(flags.all() for flags in found) else frozenset()), found


def _alike(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> frozenset[str]:
    """Activations that have rows of one length and number in every batch: the most of a kind."""
    rows = {
        name: tuple(of[name][:2] for of in shapes)
        for name in shapes[0]
        if all(len(of[name]) == 3 and of[name][1] > 1 and of[name][0] > 0 for of in shapes)
    }
    if not rows:
        return frozenset()
    ((most, _),) = Counter(rows.values()).most_common(1)
    return frozenset(name for name, kind in rows.items() if kind == most)


def _write(graph: Path, names: Collection[str], folder: Path) -> tuple[Path, str]:
    """The graph with one input more, ``(B, S, 1)``: 1 changes that row of what products read, 0 leaves it exactly as it is."""
    folder.mkdir(parents=True)
    model = load_model(graph)
    editor = GraphEditor(model.graph)
    mask = ir.Value(
        name=editor.fresh("changed_rows"), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([None, None, 1])
    )
    model.graph.inputs.append(mask)
    one = editor.initializer("unchanged", np.ones((), np.float32), ir.DataType.FLOAT)
    random = np.random.default_rng(0)
    for name, layers in smoothable(model.graph).items():
        if name not in names:
            continue
        data = layers[0].data
        depth = layers[0].weight_shape[1 if layers[0].transposed else 0]
        signs = random.choice(np.array([-_CHANGE, _CHANGE], np.float32), depth)
        change = ir.node("Mul", [mask, editor.initializer(f"{name}_change", signs, ir.DataType.FLOAT)])
        factor = ir.node("Add", [change.outputs[0], one])
        changed = ir.node("Mul", [data, factor.outputs[0]])
        for node in (change, factor, changed):
            node.name = editor.fresh_node(f"{name}_changed_{node.op_type}")
            node.outputs[0].name = editor.fresh(f"{name}_changed_{node.op_type}")
        editor.insert_behind(data, [change, factor, changed])
        for layer in layers:
            layer.nodes[0].replace_input_with(0, changed.outputs[0])
    path = folder / "changed.onnx"
    save_model(model, path, external_threshold=1 << 20)
    assert mask.name is not None
    return path, mask.name


class _Search:
    """Of one batch: how many rows at each end of each sample are not heard."""

    def __init__(self, run: Callable[[Array], Arrays], samples: int, rows: int) -> None:
        self.run, self.samples, self.rows = run, samples, rows
        nothing = run(np.zeros((samples, rows, 1), np.float32))
        self.base = {name: np.array(array) for name, array in nothing.items()}

    def heard(self) -> Flags:
        """``(samples, rows)``."""
        behind = self.unheard(lambda count, at: at >= self.rows - count)
        before = self.unheard(lambda count, at: at < count)
        at = np.arange(self.rows)
        flags = (at >= before[:, None]) & (at < self.rows - behind[:, None])
        # An output that hangs on no row at all says nothing about rows.
        flags[~flags.any(axis=1)] = True
        return flags

    def unheard(self, chosen: Callable[[_Count, _Count], Flags]) -> _Count:
        """The largest count of each sample for which changing the chosen rows changes no output."""
        at = np.arange(self.rows)
        low, high = np.zeros(self.samples, np.int64), np.full(self.samples, self.rows, np.int64)
        count = np.ones(self.samples, np.int64)  # most models hear all rows: one look says so
        while (high - low > 1).any():
            same = self.same(chosen(count[:, None], at))
            low, high = np.where(same, np.maximum(low, count), low), np.where(same, high, np.minimum(high, count))
            count = np.maximum((low + high) // 2, low)
        return low

    def same(self, changed: Flags) -> Flags:
        """Of each sample, whether its outputs are what they were."""
        result = self.run(np.ascontiguousarray(changed[:, :, None], np.float32))
        verdict = np.ones(self.samples, np.bool_)
        for name, base in self.base.items():
            if not np.issubdtype(base.dtype, np.floating):
                equal = result[name] == base if result[name].shape == base.shape else np.zeros(1, np.bool_)
            elif result[name].shape != base.shape:
                return np.zeros(self.samples, np.bool_)
            else:
                finite = np.abs(base, where=np.isfinite(base), out=np.zeros_like(base))
                equal = np.isclose(result[name], base, rtol=0, atol=_UNHEARD * finite.max(initial=0), equal_nan=True)
            if equal.ndim and len(equal) == self.samples:
                verdict &= equal.reshape(self.samples, -1).all(axis=1)
            elif not equal.all():
                return np.zeros(self.samples, np.bool_)
        return verdict
