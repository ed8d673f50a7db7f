"""Products of a transformer, activation by activation: how strongly each is smoothed, and whether its rows are scaled alike.

For samples of the rows that products read, the noise that rounding adds to each output row is estimated from the rows, the weights
and the ranges alone, relative to that row's own power: behind most products comes a normalisation, for which a small row counts as
much as a large one. Measured on MiniLM, where one row in a hundred is ten times as large as the others behind GELU: scaling
those rows and leaving their channels alone in place of smoothing them by 0.75 takes the noise of these products from 27 to 33 dB below the signal.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebuild.cache import Cache
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.plan import Mode, Smoothing
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.smooth import smoothing_factors
from edgebuild.quantize.weights import quantize_weight

ALPHAS = (0.0, 0.35, 0.5, 0.65, 0.75, 0.85)

_BATCHES = 8
_ROWS = 512
"""Of an activation, over all batches."""

_WORTH_SCALING = 0.6
"""Scaled rows take a quarter more time: they have to leave less than this part of the noise."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was found best.

    Args:
        smoothing: With a strength for each activation.
        modes: "rowwise" for the layers whose rows are to be scaled.
    """

    smoothing: Smoothing
    modes: Mapping[str, Mode]


def tune_products(
    graph: Path,
    products: Mapping[str, Sequence[Layer]],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    open_graph: OpenGraph,
    cache: Cache,
    *,
    reduce_range: bool,
    rowwise: bool,
) -> Tuning:
    """Tunes every activation that products read.

    Args:
        graph: ONNX file of the float graph.
        products: The "matmul" layers that read each activation, by its name; see ``smooth.smoothable``.
        batches: By the graph's input names; the first 8 are read.
        open_graph: How a graph is run.
        cache: Where the graph with other outputs lies meanwhile.
        reduce_range: Whether weights have 7 bits.
        rowwise: Whether rows may be scaled.
    """
    rows = sample_rows(graph, list(products), batches, open_graph, cache)
    absmax: dict[str, tuple[float, ...]] = {}
    alphas: dict[str, float] = {}
    modes: dict[str, Mode] = {}
    for name, layers in products.items():
        if not rows[name].size:
            continue
        alpha, scaled = best_form(rows[name], layers, reduce_range=reduce_range, rowwise=rowwise)
        absmax[name] = tuple(float(x) for x in np.abs(rows[name]).max(axis=0))
        alphas[name] = alpha
        if scaled:
            modes |= dict.fromkeys((layer.name for layer in layers), "rowwise")
    return Tuning(smoothing=Smoothing(alpha=0.5, absmax=absmax, alphas=alphas), modes=modes)


def best_form(rows: Matrix, layers: Sequence[Layer], *, reduce_range: bool, rowwise: bool) -> tuple[float, bool]:
    """The strength of smoothing that leaves least noise, and whether rows had better be scaled.

    Args:
        rows: ``(R, K)``, float32, finite.
        layers: Products that read them.
        reduce_range: Whether weights have 7 bits.
        rowwise: Whether rows may be scaled.
    """
    weight = np.concatenate(
        [layer.weight_array().T if layer.transposed else layer.weight_array() for layer in layers], axis=1
    )
    magnitudes = np.abs(rows).max(axis=0, initial=0.0).astype(np.float64)
    noises = {}
    for alpha in ALPHAS:
        factors = smoothing_factors(magnitudes, np.abs(weight).max(axis=1), alpha) if alpha else None
        noises[alpha] = relative_noise(rows, weight, factors, scaled=False, reduce_range=reduce_range)
    best = min(noises, key=lambda alpha: noises[alpha])
    # Rows that are scaled are not smoothed too: on MiniLM that left 2 to 4 dB more noise than scaling alone.
    if rowwise and relative_noise(rows, weight, None, scaled=True, reduce_range=reduce_range) < (
        _WORTH_SCALING * noises[best]
    ):
        return 0.0, True
    return best, False


def relative_noise(
    rows: Matrix, weight: Matrix, factors: npt.NDArray[np.float64] | None, *, scaled: bool, reduce_range: bool
) -> float:
    """Noise over signal of a product's output: of its rows in the mean, plus of all together.

    Noise is that of rounded weights and of 8-bit activations. Rows count alike, but one that is far larger than the others is
    often what attention rests on: its own noise must not vanish among them.

    Args:
        rows: ``(R, K)``.
        weight: ``(K, N)``.
        factors: Of smoothing, ``(K,)``; None: none.
        scaled: Whether each row is divided by its largest magnitude before.
        reduce_range: Whether weights have 7 bits.
    """
    signal = np.square(rows @ weight).sum(axis=1)
    if factors is not None:
        rows = (rows / factors).astype(np.float32)
        weight = (weight * factors[:, None]).astype(np.float32)
    error = quantize_weight(weight, 1, reduce_range=reduce_range).dequantized() - weight
    sizes = np.abs(rows).max(axis=1, initial=0.0) if scaled else np.ones(len(rows), np.float32)
    ranged = rows / np.where(sizes > 0, sizes, 1)[:, None]
    step = (max(float(ranged.max()), 0.0) - min(float(ranged.min()), 0.0)) / 255 * sizes
    noise = np.square(rows @ error).sum(axis=1) + np.square(step) / 12 * float(np.square(weight).sum())
    heard = signal > 0
    if not heard.any():
        return 0.0
    return float(np.mean(noise[heard] / signal[heard])) + float(noise[heard].sum() / signal[heard].sum())


def sample_rows(
    graph: Path,
    names: Sequence[str],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    open_graph: OpenGraph,
    cache: Cache,
) -> dict[str, Matrix]:
    """Rows (over the last axis) of activations, picked at random from the first batches.

    Args:
        graph: ONNX file.
        names: Of float values of its main graph, inputs included, with one axis at least.
        batches: By the graph's input names; the first 8 are read.
        open_graph: How a graph is run.
        cache: Where the graph with other outputs lies meanwhile.

    Returns:
        ``(R, K)``, float32, by name; without rows that are not finite.
    """
    chosen = list(islice(iter(batches), _BATCHES))
    picker = np.random.default_rng(0)
    source = read_graph(graph, names)
    inside = [name for name in names if name not in source.inputs]
    found: dict[str, list[Matrix]] = {name: [] for name in names}
    folder = cache.staging_folder()
    try:
        with ExitStack() as stack:
            # A graph without outputs is none: a model of one product reads its input alone.
            exposed = write_exposed(source, inside, folder / "graph") if inside else None
            runner = None if exposed is None else stack.enter_context(open_graph(exposed))
            for batch in chosen:
                values = {**batch, **({} if runner is None else runner.run(batch))}
                for name in names:
                    rows = np.asarray(values[name], np.float32).reshape(-1, values[name].shape[-1])
                    most = -(-_ROWS // len(chosen))
                    picked = picker.choice(len(rows), most, replace=False) if len(rows) > most else slice(None)
                    found[name].append(rows[picked])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: rows[np.isfinite(rows).all(axis=1)] for name, rows in joined.items()}
