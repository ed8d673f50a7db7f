"""Products of a transformer, activation by activation: how strongly each is smoothed, and whether rows are scaled or channels split.

For samples of the rows that products read, the noise that rounding adds to each output row is estimated from the rows, the weights
and the ranges alone, relative to that row's own power: behind most products comes a normalisation, for which a small row counts as
much as a large one. Rows that no output hears of, as padding, share the range of each run and count for nothing else.

Measured on MiniLM with 24 samples, all products dynamic: 18.9 dB below the signal as they are, 27.9 with each activation smoothed as is best for it,
29.2 with outliers split; adaptive rounding then leaves 28.8 and 31.0. Of 2.3 times the speed of float splitting leaves 2.1.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebuild.cache import Cache
from edgebuild.quantize.copies import Split, choose_copies
from edgebuild.quantize.heard import heard_rows
from edgebuild.quantize.instrument import read_graph, write_exposed
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.plan import Mode, Smoothing
from edgebuild.quantize.running import OpenGraph
from edgebuild.quantize.smooth import smoothing_factors
from edgebuild.quantize.weights import quantize_weight

ALPHAS = (0.0, 0.35, 0.5, 0.65, 0.75, 0.85)

_BATCHES = 8
_ROWS = 256
"""Of an activation, over all batches."""

_WORTH_SCALING = 0.6
"""Scaled rows take a quarter more time: they have to leave less than this part of the noise."""

_MORE_COLUMNS = (1 / 64, 1 / 32, 1 / 16)
"""What splitting may add, of an activation's columns."""

_SPLIT_PASSES, _SCALING_PASSES, _PICKING = 100, 77, 800
"""Time of going over an activation's element, to split or to scale, and of picking one out, in multiplications of an integer product.

Measured on one VNNI core: 6.5 ps for each of these, 0.65 ns to copy and divide an element, 0.5 ns to scale it, 5 ns to pick it."""

_TIMES_OF_FLOAT = 1.0
"""What taking away a product's noise may cost, in times of the integer product. A float one costs 2 more; at that price MiniLM gains 0.1 dB
and loses a twentieth of its speed."""

_ROUNDED = 0.6
"""What adaptive rounding leaves of the noise of weights."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SampledRows:
    """Rows of one activation.

    Args:
        rows: ``(R, K)``, float32, finite.
        heard: Which of them the model's outputs depend on, ``(R,)``.
    """

    rows: Matrix
    heard: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one activation is prepared for its products.

    Args:
        alpha: How strongly it is smoothed.
        scaled: Whether its rows are scaled alike.
        split: What becomes of outlying channels first; None: nothing.
        noise: Estimate, over the signal: of the rows in the mean, plus of all together.
        work: What preparing a row takes, in multiplications of an integer product.
    """

    alpha: float
    scaled: bool
    split: Split | None
    noise: float
    work: float


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
) -> tuple[Tuning, Tuning]:
    """Tunes every activation that products read.

    Args:
        graph: ONNX file of the float graph.
        products: The "matmul" layers that read each activation, by its name; see ``smooth.smoothable``.
        batches: By the graph's input names; the first 8 are read.
        open_graph: How a graph is run.
        cache: Where the graph with other outputs lies meanwhile.
        reduce_range: Whether weights have 7 bits.
        rowwise: Whether rows may be scaled.

    Returns:
        What costs next to no time, and what takes away more noise for some.
    """
    rows = sample_rows(graph, list(products), batches, open_graph, cache)
    forms: dict[str, list[Form]] = {}
    for name, layers in products.items():
        if rows[name].rows.size:
            found = possible_forms(rows[name], layers, reduce_range=reduce_range, rowwise=rowwise)
            # What several products read is heard as often.
            forms[name] = [replace(form, noise=form.noise * len(layers)) for form in found]
    absmax = {name: tuple(float(x) for x in np.abs(rows[name].rows).max(axis=0)) for name in forms}
    work = {name: float(sum(layer.weight_size for layer in products[name])) for name in forms}
    cheap = {name: cheap_form(of) for name, of in forms.items()}
    return _tuning(cheap, products, absmax), _tuning(balanced_forms(forms, work), products, absmax)


def _tuning(
    chosen: Mapping[str, Form], products: Mapping[str, Sequence[Layer]], absmax: Mapping[str, tuple[float, ...]]
) -> Tuning:
    scaled = [layer.name for name, form in chosen.items() if form.scaled for layer in products[name]]
    smoothing = Smoothing(
        alpha=0.5,
        absmax=absmax,
        alphas={name: form.alpha for name, form in chosen.items()},
        splits={name: form.split for name, form in chosen.items() if form.split is not None},
    )
    return Tuning(smoothing=smoothing, modes=dict.fromkeys(scaled, "rowwise"))


def possible_forms(sampled: SampledRows, layers: Sequence[Layer], *, reduce_range: bool, rowwise: bool) -> list[Form]:
    """Every combination of scaled rows and split channels, each with the strength of smoothing that leaves least noise; the plainest first.

    Args:
        sampled: Rows of the activation.
        layers: Products that read them.
        reduce_range: Whether weights have 7 bits.
        rowwise: Whether rows may be scaled.
    """
    weight = np.concatenate(
        [layer.weight_array().T if layer.transposed else layer.weight_array() for layer in layers], axis=1
    )
    activation = _Activation(sampled, weight, reduce_range=reduce_range)
    depth = len(weight)
    found = activation.best(np.ones(depth, np.int64), ALPHAS, rowwise=rowwise)
    # With its outliers split an activation is smoothed about as strongly as without.
    index = ALPHAS.index(found[0].alpha)
    near = sorted({0.0, *ALPHAS[max(index - 1, 0) : index + 2]})
    tried = {0}
    for part in _MORE_COLUMNS:
        copies = choose_copies(activation.magnitudes, int(part * depth))
        if int((copies - 1).sum()) not in tried:
            tried.add(int((copies - 1).sum()))
            found += activation.best(copies, near, rowwise=rowwise)
    return found


def cheap_form(forms: Sequence[Form]) -> Form:
    """What takes least time: smoothing alone, or scaled rows where these leave far less noise."""
    whole = [form for form in forms if form.split is None]
    return min(whole, key=lambda form: form.noise / (_WORTH_SCALING if form.scaled else 1))


def balanced_forms(forms: Mapping[str, Sequence[Form]], work: Mapping[str, float]) -> dict[str, Form]:
    """For each activation the form whose time is worth the noise that it takes away.

    A product that goes back to float has no noise and costs time; what a form takes away must cost less.

    Args:
        forms: By activation.
        work: Multiplications of its products for each row.
    """
    least = sum(min(form.noise for form in of) for of in forms.values())
    price = least / (_TIMES_OF_FLOAT * max(sum(work.values()), 1.0))
    return {name: min(of, key=lambda form: form.noise + price * form.work) for name, of in forms.items()}


class _Activation:
    """Rows and the weights that read them, and what each form would leave of noise."""

    def __init__(self, sampled: SampledRows, weight: Matrix, *, reduce_range: bool) -> None:
        self.rows, self.heard, self.weight, self.reduce_range = sampled.rows, sampled.heard, weight, reduce_range
        rows = sampled.rows
        self.signal = np.square(rows[self.heard] @ weight).sum(axis=1)
        self.magnitudes = np.abs(rows).max(axis=0, initial=0.0).astype(np.float64)
        self.weight_magnitudes = np.abs(weight).max(axis=1)

    def best(self, copies: npt.NDArray[np.int64], alphas: Sequence[float], *, rowwise: bool) -> list[Form]:
        """The best strength of smoothing, without and with scaled rows."""
        depth, width = self.weight.shape
        added = int((copies - 1).sum())
        work = {False: _SPLIT_PASSES * (depth + added) + (_PICKING + width) * added if added else 0.0}
        work[True] = work[False] + _SCALING_PASSES * (depth + added + width)
        forms: dict[bool, list[Form]] = {False: [], True: []}
        for alpha in alphas:
            factors = None
            if alpha:
                factors = smoothing_factors(self.magnitudes / copies, self.weight_magnitudes, alpha)
            for scaled, (noise, steps) in self.noises(factors, copies, rowwise=rowwise).items():
                form = Form(alpha=alpha, scaled=scaled, split=_split(copies, steps), noise=noise, work=work[scaled])
                forms[scaled].append(form)
        return [min(of, key=lambda form: form.noise) for of in forms.values() if of]

    def noises(
        self, factors: npt.NDArray[np.float64] | None, copies: npt.NDArray[np.int64], *, rowwise: bool
    ) -> dict[bool, tuple[float, npt.NDArray[np.float64]]]:
        """Noise, and what rounding resolves of each channel, without and with scaled rows."""
        divisors = np.ones(len(copies)) if factors is None else factors
        weight = (self.weight * divisors[:, None]).astype(np.float32)
        rows = (self.rows / divisors).astype(np.float32)
        error = quantize_weight(weight, 1, reduce_range=self.reduce_range).dequantized() - weight
        of_weights = _ROUNDED * np.square(rows[self.heard] @ error).sum(axis=1)
        # Copies are shifted against each other: rounded together they add about as much as two channels, not as r * r.
        power = float((np.square(weight).sum(axis=1) * np.where(copies > 1, 2, 1)).sum())
        parts = (rows / copies).astype(np.float32)
        found = {}
        for scaled in (False, True) if rowwise else (False,):
            sizes = np.abs(parts).max(axis=1, initial=0.0) if scaled else np.ones(len(parts), np.float32)
            ranged = parts / np.where(sizes > 0, sizes, 1)[:, None]
            step = (max(float(ranged.max()), 0.0) - min(float(ranged.min()), 0.0)) / 255
            sizes = sizes[self.heard]
            noise = of_weights + np.square(step * sizes) / 12 * power
            resolved = step * (float(np.median(sizes)) if len(sizes) else 1.0) * divisors * copies
            found[scaled] = _relative(noise, self.signal), resolved
        return found


def _relative(noise: npt.NDArray[np.floating[Any]], signal: npt.NDArray[np.floating[Any]]) -> float:
    """Noise over signal of a product's output: of its rows in the mean, plus of all together.

    Rows count alike, but one that is far larger than the others is often what attention rests on: its own noise must not vanish
    among them.
    """
    heard = signal > 0
    if not heard.any():
        return 0.0
    return float(np.mean(noise[heard] / signal[heard])) + float(noise[heard].sum() / signal[heard].sum())


def _split(copies: npt.NDArray[np.int64], steps: npt.NDArray[np.float64]) -> Split | None:
    channels = np.flatnonzero(copies > 1)
    if not len(channels):
        return None
    return Split(
        channels=tuple(map(int, channels)),
        copies=tuple(map(int, copies[channels])),
        steps=tuple(float(f"{step:.4g}") for step in steps[channels]),
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
                    heard = flags[index].reshape(-1) if name in padded else np.ones(len(rows), np.bool_)
                    picked = _pick(heard, -(-_ROWS // len(chosen)), picker)
                    picked = picked[np.isfinite(rows[picked]).all(axis=1)]
                    found[name].append((rows[picked], heard[picked]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        name: SampledRows(
            rows=np.concatenate([rows for rows, _ in parts]), heard=np.concatenate([heard for _, heard in parts])
        )
        for name, parts in found.items()
    }


def _pick(heard: npt.NDArray[np.bool_], most: int, picker: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most so many rows: of those that are not heard, which share their ranges with the others, a quarter if there are enough others."""
    loud, silent = np.flatnonzero(heard), np.flatnonzero(~heard)
    few = min(len(silent), max(most // 4, most - len(loud)))
    parts = [(loud, min(len(loud), most - few)), (silent, few)]
    return np.concatenate([np.sort(picker.choice(of, count, replace=False)) for of, count in parts])
