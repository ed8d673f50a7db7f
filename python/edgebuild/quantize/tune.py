"""Products of a transformer, activation by activation: the forms in which they may be computed, from samples of the rows that they read.

Measured on MiniLM with 24 samples, all products dynamic: 18.7 dB below the signal as they are, 27.8 with each activation smoothed as is best for it;
what further forms gain at which cost is for ``select.climb`` to find.
"""

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebuild.cache import Cache
from edgebuild.quantize.heard import heard_rows
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.plan import Mode, Smoothing, Vectors
from edgebuild.quantize.product_forms import (
    SEPARATE_ROWS,
    Form,
    Matrix,
    RowCosts,
    SampledRows,
    balanced_forms,
    cheap_form,
    possible_forms,
)
from edgebuild.quantize.running import OpenGraph

_BATCHES = 8
_ROWS = 256
"""Of an activation, over all batches."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was found best.

    Args:
        smoothing: With a strength for each activation.
        modes: "rowwise", "two_terms" or "blockwise" for the layers that are to be computed so.
    """

    smoothing: Smoothing
    modes: Mapping[str, Mode]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What there is to choose from, by activation.

    Args:
        products: The "matmul" layers that read it.
        forms: See ``product_forms.possible_forms``; noise of all its products together.
        absmax: Largest magnitude of each channel, ``(K,)``.
        rows: How many rows it has in one run.
    """

    products: Mapping[str, Sequence[Layer]]
    forms: Mapping[str, Sequence[Form]]
    absmax: Vectors
    rows: Mapping[str, float]

    @property
    def work(self) -> dict[str, float]:
        """Multiplications of each activation's products for one row."""
        return {name: float(sum(layer.weight_size for layer in self.products[name])) for name in self.forms}

    def cheap(self) -> dict[str, Form]:
        """What costs next to no time."""
        return {name: cheap_form(of) for name, of in self.forms.items()}

    def balanced(self) -> dict[str, Form]:
        """What takes away more noise for some, where its time is worth it."""
        return balanced_forms(self.forms, self.work)

    def tuning(self, chosen: Mapping[str, Form]) -> Tuning:
        """What a plan takes of one form for each activation, none of them "float"."""
        modes: dict[str, Mode] = {}
        for name, form in chosen.items():
            if form.mode != "dynamic" and form.mode != "float":
                modes |= dict.fromkeys((layer.name for layer in self.products[name]), form.mode)
        smoothing = Smoothing(
            alpha=0.5,
            absmax=self.absmax,
            alphas={name: form.alpha for name, form in chosen.items()},
            splits={name: form.split for name, form in chosen.items() if form.split is not None},
        )
        return Tuning(smoothing=smoothing, modes=modes)


def tune_products(
    graph: Path,
    products: Mapping[str, Sequence[Layer]],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    open_graph: OpenGraph,
    cache: Cache,
    *,
    reduce_range: bool,
    modes: Collection[Mode],
    costs: RowCosts = SEPARATE_ROWS,
) -> Tuned:
    """Looks at every activation that products read.

    Args:
        graph: ONNX file of the float graph.
        products: The "matmul" layers that read each activation, by its name; see ``smooth.smoothable``.
        batches: By the graph's input names; the first 8 are read.
        open_graph: How a graph is run.
        cache: Where the graph with other outputs lies meanwhile.
        reduce_range: Whether weights have 7 bits.
        modes: "dynamic", and which of "rowwise", "two_terms" and "blockwise" are legal.
        costs: Of preparing rows.

    Returns:
        Its forms; an activation without rows has none.
    """
    rows = sample_rows(graph, list(products), batches, open_graph, cache)
    forms: dict[str, list[Form]] = {}
    for name, layers in products.items():
        if rows[name].rows.size:
            found = possible_forms(rows[name], layers, reduce_range=reduce_range, modes=modes, costs=costs)
            # What several products read is heard as often.
            forms[name] = [replace(form, noise=form.noise * len(layers)) for form in found]
    return Tuned(
        products=products,
        forms=forms,
        absmax={name: tuple(float(x) for x in np.abs(rows[name].rows).max(axis=0)) for name in forms},
        rows={name: rows[name].in_run for name in forms},
    )


def sample_rows(
    graph: Path,
    names: Sequence[str],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    open_graph: OpenGraph,
    cache: Cache,
) -> dict[str, SampledRows]:
    """Rows (over the last axis) of activations, picked at random from the first batches, mostly of those that are heard.

    Args:
        graph: ONNX file.
        names: Of float values of its main graph, inputs included, with one axis at least.
        batches: By the graph's input names; the first 8 are read.
        open_graph: How a graph is run.
        cache: Where the graph with other outputs lies meanwhile.

    Returns:
        By name; without rows that are not finite.
    """
    chosen = list(islice(iter(batches), _BATCHES))
    source = read_graph(graph, names)
    inside = [name for name in names if name not in source.inputs]
    folder = cache.staging_folder()
    found: dict[str, list[tuple[Matrix, npt.NDArray[np.bool_]]]] = {name: [] for name in names}
    picker = np.random.default_rng(0)
    counts = dict.fromkeys(names, 0.0)
    try:
        with ExitStack() as stack:
            # A graph without outputs is none: a model of one product reads its input alone.
            exposed = write_exposed(source, inside, folder / "graph") if inside else None
            runner = None if exposed is None else stack.enter_context(open_graph(exposed))

            def values(batch: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
                return {**batch, **({} if runner is None else runner.run(batch))}

            shapes = [{name: np.shape(all_values[name]) for name in names} for all_values in map(values, chosen)]
            padded, flags = heard_rows(graph, shapes, chosen, open_graph, folder / "heard") if chosen else (set(), [])
            for index, batch in enumerate(chosen):
                all_values = values(batch)
                for name in names:
                    rows = np.asarray(all_values[name], np.float32).reshape(-1, all_values[name].shape[-1])
                    counts[name] += len(rows) / len(chosen)
                    heard = flags[index].reshape(-1) if name in padded else np.ones(len(rows), np.bool_)
                    picked = _pick(heard, -(-_ROWS // len(chosen)), picker)
                    picked = picked[np.isfinite(rows[picked]).all(axis=1)]
                    found[name].append((rows[picked], heard[picked]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        name: SampledRows(
            rows=np.concatenate([rows for rows, _ in parts]),
            heard=np.concatenate([heard for _, heard in parts]),
            in_run=counts[name],
        )
        for name, parts in found.items()
    }


def _pick(heard: npt.NDArray[np.bool_], most: int, picker: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most so many rows: of those that are not heard, which share their ranges with the others, a quarter if there are enough others."""
    loud, silent = np.flatnonzero(heard), np.flatnonzero(~heard)
    few = min(len(silent), max(most // 4, most - len(loud)))
    parts = [(loud, min(len(loud), most - few)), (silent, few)]
    return np.concatenate([np.sort(picker.choice(of, count, replace=False)) for of, count in parts])
