"""How far a variant's outputs are from the float model's: signal to noise, cosine, decisions; accumulated batch by batch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["decision", "choices", "embedding", "value"]

_NEAR_TIE = 0.01
"""A decision whose float margin is below this share of the scores' standard deviation is a near-tie: rounding decides it."""

_MOST_CLASSES = 200_000
_LARGEST = float(np.finfo(np.float64).max) / 2
_UNIT_LENGTH = 1e-3


@dataclass(frozen=True, kw_only=True)
class OutputScore:
    """One output against the float model's.

    Args:
        output: Its name.
        sqnr_db: Signal to quantisation noise, 10 log10(sum x^2 / sum (x - y)^2); infinite if equal.
        cosine: Mean over samples of the cosine between the flattened outputs; 1 for integer outputs that agree.
        max_abs_error: Largest difference of an element.
        decisions: How many arg-max decisions were compared, near-ties apart; 0: this output is none.
        agreement: Share of them that agree; for integer and bool outputs the share of equal elements; None: neither.
        near_ties: Decisions left out because the float model's own margin is too small to mean anything.
        kind: "decision" (one choice for each sample), "choices" (many, e.g. one for each pixel or token, or no choices at all but
            values that look like it), "embedding" (rows of length 1), "value".
    """

    output: str
    sqnr_db: float
    cosine: float
    max_abs_error: float
    decisions: int
    agreement: float | None
    near_ties: int
    kind: Kind = "value"

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: an output that is equal has no ``sqnr_db``."""
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in vars(self).items()}


class ScoreCounter:
    """Sums up what ``OutputScore`` says; memory does not grow with the number of batches."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = {name: _Sums() for name in names}

    def add(self, expected: Mapping[str, npt.NDArray[Any]], got: Mapping[str, npt.NDArray[Any]]) -> None:
        """One batch: the float model's outputs and the variant's, by name, equal shapes."""
        for name, sums in self._sums.items():
            if np.shape(expected[name]) != np.shape(got[name]):
                sums.differ(np.size(expected[name]))
                continue
            sums.add(np.asarray(expected[name]), np.asarray(got[name]))

    def scores(self) -> tuple[OutputScore, ...]:
        """For every output, in the order given."""
        return tuple(sums.score(name) for name, sums in self._sums.items())


class _Sums:
    def __init__(self) -> None:
        self.signal = self.noise = self.worst = self.cosines = 0.0
        self.samples = self.decided = self.agreed = self.near = 0
        self.compared = self.equal = 0
        self.kind: Kind | None = None

    def differ(self, size: int) -> None:
        """The outputs have not even the same shape, as where a quantised model finds another number of boxes."""
        self.noise = self.worst = math.inf
        self.samples += 1
        self.compared += size

    def add(self, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> None:
        if expected.dtype.kind not in "fc" and expected.dtype.kind in "biuOSU":
            self.compared += expected.size
            self.equal += int(np.count_nonzero(expected == got))
            return
        a, b = expected.astype(np.float64), got.astype(np.float64)
        if a.size == 0:
            return
        # Equal infinities and NaN are no noise; one that the other has not, is all of it.
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.subtract(a, b, where=~same, out=np.zeros_like(a))
        finite = np.where(np.isfinite(a), a, 0.0)
        kind = _kind(finite)
        self.kind = kind if self.kind in (None, kind) else "value"
        self.signal += float(np.sum(finite * finite))
        error = np.where(np.isfinite(difference), difference, np.inf)
        self.noise += float(np.sum(error * error))
        self.worst = max(self.worst, float(np.max(np.abs(error))))
        other = np.where(np.isfinite(b), b, 0.0)
        rows_a, rows_b = (x.reshape(x.shape[0] if x.ndim > 1 else 1, -1) for x in (finite, other))
        length = np.linalg.norm(rows_a, axis=1) * np.linalg.norm(rows_b, axis=1)
        dots = np.sum(rows_a * rows_b, axis=1)
        both_zero = np.all(rows_a == rows_b, axis=1)
        self.cosines += float(np.sum(np.where(both_zero, 1.0, dots / np.where(length > 0, length, 1.0))))
        self.samples += len(rows_a)
        self._decide(a, np.where(np.isnan(a) & same, -np.inf, b), finite)

    def _decide(self, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], finite: npt.NDArray[np.float64]) -> None:
        axis = decision_axis(finite)
        if axis is None:
            return
        # A class that is masked with minus infinity, or has no score at all, is never chosen.
        a = np.where(np.isnan(a), -np.inf, a)
        rows_a, rows_b, rows = (np.moveaxis(x, axis, -1).reshape(-1, a.shape[axis]) for x in (a, b, finite))
        top = np.partition(rows_a, -2, axis=1)[:, -2:]
        margin = np.diff(np.clip(top, -_LARGEST, _LARGEST), axis=1)[:, 0]
        clear = margin > _NEAR_TIE * np.std(rows, axis=1)
        agree = np.argmax(rows_a, axis=1) == np.argmax(rows_b, axis=1)
        self.decided += int(np.count_nonzero(clear))
        self.agreed += int(np.count_nonzero(clear & agree))
        self.near += int(np.count_nonzero(~clear))

    def score(self, name: str) -> OutputScore:
        agreement = self.agreed / self.decided if self.decided else None
        if self.compared:
            agreement = self.equal / self.compared
        return OutputScore(
            output=name,
            sqnr_db=sqnr_db(self.signal, self.noise),
            cosine=self.cosines / self.samples if self.samples else 1.0,
            max_abs_error=self.worst,
            decisions=self.decided or self.compared,
            agreement=agreement,
            near_ties=self.near,
            kind="decision" if self.compared else self.kind or "value",
        )


def _kind(scores: npt.NDArray[Any]) -> Kind:
    if decision_axis(scores) is not None:
        return "decision" if scores.ndim == 2 else "choices"
    return "embedding" if are_unit_rows(scores) else "value"


def sqnr_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise); infinite without noise, minus infinite without signal."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if 0 < signal < math.inf and noise < math.inf else -math.inf


def decision_axis(scores: npt.NDArray[Any]) -> int | None:
    """The axis over which an output chooses, if it looks like one that chooses: scores of classes, not an embedding.

    ``(N, C)`` and ``(N, S, C)`` choose over the last axis, ``(N, C, H, W)`` over the second. Rows of length 1 are normalised
    embeddings, whose largest element means nothing; see ``are_unit_rows``.
    """
    if scores.ndim not in (2, 3, 4):
        return None
    axis = 1 if scores.ndim == 4 else scores.ndim - 1
    if not 2 <= scores.shape[axis] <= _MOST_CLASSES or scores.shape[0] == 0:
        return None
    return None if are_unit_rows(scores) else axis


def are_unit_rows(array: npt.NDArray[Any]) -> bool:
    """Whether an output is ``(N, D)`` with rows of length 1: embeddings, which are compared with each other."""
    if array.ndim != 2 or array.size == 0:
        return False
    return bool(np.all(np.abs(np.linalg.norm(array, axis=1) - 1) < _UNIT_LENGTH))
