"""The forms in which products may read one activation, each with the noise that it leaves and the time that it takes.

For samples of the rows that products read, the noise that rounding adds to each output row is estimated from the rows, the weights
and the ranges alone, relative to that row's own power: behind most products comes a normalisation, for which a small row counts as
much as a large one. Rows that no output hears of, as padding, share the range of each run and count for nothing else.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgebuild.quantize.copies import Split, choose_copies
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.plan import Mode
from edgebuild.quantize.products import BLOCK, blockwise_integers
from edgebuild.quantize.smooth import folds, smoothing_factors
from edgebuild.quantize.weights import quantize_weight

ALPHAS = (0.0, 0.35, 0.5, 0.65, 0.75, 0.85)

_WORTH_SCALING = 0.6
"""Scaled rows take a quarter more time: they have to leave less than this part of the noise."""

_MORE_COLUMNS = (1 / 64, 1 / 32, 1 / 16)
"""What splitting may add, of an activation's columns."""

_BLOCKWISE, _SECOND_TERM, FLOAT = 1.2, 0.95, 2.5
"""What a blockwise product, one of two terms, and a float one, takes more, in times of the integer product."""

_DEAR: Collection[Mode] = ("two_terms", "blockwise")
"""Next to float."""

_RESOLVED = 127 * 254
"""Steps of two terms from 0 to a row's largest magnitude."""

_TIMES_OF_FLOAT = 1.0
"""What taking away a product's noise may cost, in times of the integer product. A float one costs 2 more; at that price MiniLM gains 0.1 dB
and loses a twentieth of its speed."""

_ROUNDED = 0.6
"""What adaptive rounding leaves of the noise of weights."""

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RowCosts:
    """What preparing rows takes, in multiplications of an integer product (6.5 ps on one VNNI core, where all was measured).

    Args:
        split: For each value of rows with copies, smoothed or not.
        smoothing: For each value of rows that are smoothed alone.
        scaling: For each value of rows that are scaled.
        rescaling: For each value that a product of scaled rows gives.
        picking: For each copy.
        second: For each value of rows in two terms, and that their products give; besides scaling.
        own_ranges: Whether each scaled row has a range of its own, or rows of a largest magnitude of 1 share one.
    """

    split: float
    smoothing: float
    scaling: float
    rescaling: float
    picking: float
    second: float = 0.0
    own_ranges: bool = False


SEPARATE_ROWS = RowCosts(split=100, smoothing=60, scaling=77, rescaling=77, picking=800)
"""As the engine's operators: 0.65 ns to copy and divide a value, 0.4 ns to multiply it, 0.5 ns to scale it, 5 ns to pick it out."""

FUSED_ROWS = RowCosts(split=15, smoothing=12, scaling=0, rescaling=25, picking=150, second=8, own_ranges=True)
"""As edgebuild's own operator, which quantises too: what that takes more than quantising alone."""


@dataclass(frozen=True, kw_only=True)
class SampledRows:
    """Rows of one activation.

    Args:
        rows: ``(R, K)``, float32, finite.
        heard: Which of them the model's outputs depend on, ``(R,)``.
        in_run: How many there are in one run, in the mean.
    """

    rows: Matrix
    heard: npt.NDArray[np.bool_]
    in_run: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one activation is prepared for its products, and how these compute.

    Args:
        alpha: How strongly it is smoothed.
        mode: "dynamic", or "rowwise" if its rows are scaled alike, or "two_terms" or "blockwise"; "float" if its products stay so.
        split: What becomes of outlying channels first; None: nothing.
        noise: Estimate, over the signal: of the rows in the mean, plus of all together.
        work: What a row takes more than the integer product alone, in multiplications of that.
    """

    alpha: float
    mode: Mode | Literal["float"]
    split: Split | None
    noise: float
    work: float


def possible_forms(
    sampled: SampledRows,
    layers: Sequence[Layer],
    *,
    reduce_range: bool,
    modes: Collection[Mode],
    costs: RowCosts = SEPARATE_ROWS,
) -> list[Form]:
    """Every combination of a mode and split channels, each with the strength of smoothing that leaves least noise; first without splitting.

    Where smoothing takes time, there is one without too.

    Args:
        sampled: Rows of the activation.
        layers: Products that read them.
        reduce_range: Whether weights have 7 bits.
        modes: "dynamic", and which of "rowwise", "two_terms" and "blockwise" are legal.
        costs: Of preparing rows.
    """
    activation = _Activation(sampled, layers, reduce_range=reduce_range, costs=costs)
    depth = len(activation.weight)
    found = activation.best(np.ones(depth, np.int64), ALPHAS, modes)
    cheap = [mode for mode in modes if mode not in _DEAR]
    near = sorted({0.0, *(alpha for mode in cheap for alpha in _near(form for form in found if form.mode == mode))})
    tried = {0}
    for part in _MORE_COLUMNS:
        copies = choose_copies(activation.magnitudes, int(part * depth))
        if int((copies - 1).sum()) not in tried:
            tried.add(int((copies - 1).sum()))
            found += activation.best(copies, near, cheap)
    return found


def _near(forms: Iterable[Form]) -> Sequence[float]:
    """With its outliers split an activation is smoothed about as strongly as it is best without, which differs from mode to mode."""
    index = ALPHAS.index(min(forms, key=lambda form: form.noise).alpha)
    return ALPHAS[max(index - 1, 0) : index + 2]


def cheap_form(forms: Sequence[Form]) -> Form:
    """What takes least time: smoothing alone, or scaled rows where these leave far less noise."""
    whole = [form for form in forms if form.split is None and form.mode not in _DEAR]
    return min(whole, key=lambda form: form.noise / (_WORTH_SCALING if form.mode == "rowwise" else 1))


def float_form(form: Form, work: float) -> Form:
    """The same with its products in float.

    Args:
        form: What is kept for the case that they are quantised after all.
        work: Multiplications of the products for each row.
    """
    return replace(form, mode="float", noise=0.0, work=FLOAT * work)


def balanced_forms(forms: Mapping[str, Sequence[Form]], work: Mapping[str, float]) -> dict[str, Form]:
    """For each activation the form whose time is worth the noise that it takes away.

    A product that goes back to float has no noise and costs time; what a form takes away must cost less.

    Args:
        forms: By activation.
        work: Multiplications of its products for each row.
    """
    least = sum(min(form.noise for form in of if form.mode not in _DEAR) for of in forms.values())
    price = least / (_TIMES_OF_FLOAT * max(sum(work.values()), 1.0))
    return {name: min(of, key=lambda form: form.noise + price * form.work) for name, of in forms.items()}


class _Activation:
    """Rows and the weights that read them, and what each form would leave of noise."""

    def __init__(
        self,
        sampled: SampledRows,
        layers: Sequence[Layer],
        *,
        reduce_range: bool,
        costs: RowCosts = SEPARATE_ROWS,
    ) -> None:
        self.costs = costs
        self.rows, self.heard, self.reduce_range = sampled.rows, sampled.heard, reduce_range
        self.weight: Matrix = np.concatenate(
            [layer.weight_array().T if layer.transposed else layer.weight_array() for layer in layers], axis=1
        )
        self.folds = folds(layers)
        rows = sampled.rows
        self.signal = np.square(rows[self.heard] @ self.weight).sum(axis=1)
        self.magnitudes = np.abs(rows).max(axis=0, initial=0.0).astype(np.float64)
        self.weight_magnitudes = np.abs(self.weight).max(axis=1)

    def best(self, copies: npt.NDArray[np.int64], alphas: Sequence[float], modes: Collection[Mode]) -> list[Form]:
        """The best strength of smoothing, for each mode and what it takes."""
        added = int((copies - 1).sum())
        forms: dict[tuple[Mode, float], list[Form]] = {}
        for alpha in alphas:
            factors = None
            if alpha:
                factors = smoothing_factors(self.magnitudes / copies, self.weight_magnitudes, alpha)
            for mode, (noise, steps) in self.noises(factors, copies, modes).items():
                work = self.work(mode, added, smoothed=factors is not None)
                form = Form(alpha=alpha, mode=mode, split=_split(copies, steps), noise=noise, work=work)
                forms.setdefault((mode, work), []).append(form)
        return [min(of, key=lambda form: form.noise) for of in forms.values()]

    def work(self, mode: Mode, added: int, *, smoothed: bool) -> float:
        """See ``Form.work``."""
        depth, width = self.weight.shape
        work = 0.0
        if added:
            # The division of copies takes the smoothing in.
            work += self.costs.split * (depth + added) + (self.costs.picking + width) * added
        elif smoothed and not self.folds:
            work += self.costs.smoothing * depth
        if mode in ("rowwise", "two_terms"):
            work += self.costs.scaling * (depth + added) + self.costs.rescaling * width
        if mode == "two_terms":
            work += self.costs.second * (depth + width) + _SECOND_TERM * depth * width
        if mode == "blockwise":
            work += _BLOCKWISE * depth * width
        return work

    def noises(
        self, factors: npt.NDArray[np.float64] | None, copies: npt.NDArray[np.int64], modes: Collection[Mode]
    ) -> dict[Mode, tuple[float, npt.NDArray[np.float64]]]:
        """Noise, and what rounding resolves of each channel, by mode."""
        divisors = np.ones(len(copies)) if factors is None else factors
        weight = (self.weight * divisors[:, None]).astype(np.float32)
        rows = (self.rows / divisors).astype(np.float32)
        found: dict[Mode, tuple[float, npt.NDArray[np.float64]]] = {}
        error = quantize_weight(weight, 1, reduce_range=self.reduce_range).dequantized() - weight
        of_weights = _ROUNDED * np.square(rows[self.heard] @ error).sum(axis=1)
        # Copies are shifted against each other: rounded together they add about as much as two channels, not as r * r.
        power = float((np.square(weight).sum(axis=1) * np.where(copies > 1, 2, 1)).sum())
        parts = (rows / copies).astype(np.float32)
        for mode in modes:
            if mode == "blockwise":
                found[mode] = _relative(self._blockwise(rows, weight), self.signal), np.zeros(len(copies))
                continue
            steps = _steps(parts, mode, own_ranges=self.costs.own_ranges)[self.heard]
            noise = of_weights + np.square(steps) / 12 * power
            resolved = (float(np.median(steps)) if len(steps) else 1.0) * divisors * copies
            found[mode] = _relative(noise, self.signal), resolved
        return found

    def _blockwise(self, rows: Matrix, weight: Matrix) -> npt.NDArray[np.float64]:
        """Noise of each row that is heard, of weights and activations with a scale for each block."""
        heard = rows[self.heard]
        values, scales = blockwise_integers(weight.T)
        depth = len(weight)
        exact = (values.astype(np.float32) * scales[..., None]).reshape(len(values), -1)[:, :depth].T
        noise: npt.NDArray[np.float64] = np.square(heard @ (exact - weight)).sum(axis=1).astype(np.float64)
        for begin in range(0, depth, BLOCK):
            steps = np.abs(heard[:, begin : begin + BLOCK]).max(axis=1, initial=0.0) / 127
            noise += np.square(steps) / 12 * float(np.square(weight[begin : begin + BLOCK]).sum())
        return noise


def _steps(rows: Matrix, mode: Mode, *, own_ranges: bool) -> npt.NDArray[np.float32]:
    """What one step of its integers is worth, for each row."""
    low, high = rows.min(axis=1, initial=0.0), rows.max(axis=1, initial=0.0)
    sizes = np.maximum(-low, high)
    if mode == "two_terms":
        return np.asarray(sizes / _RESOLVED, np.float32)
    if mode == "rowwise" and own_ranges:
        return np.asarray((high - low) / 255, np.float32)
    if mode == "dynamic":
        sizes = np.ones_like(sizes)
    divisors = np.where(sizes > 0, sizes, 1)
    shared = float((high / divisors).max(initial=0.0)) - float((low / divisors).min(initial=0.0))
    return np.asarray(sizes * shared / 255, np.float32)


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
