"""How far a quantised net is from its float model on held-out data: SQNR, cosine, decisions, accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nets.net import Net

NEAR_TIE = 1e-3
"""A float model whose best two neighbours are this close in cosine has not decided."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Figures of one side against float; None where a figure has no meaning for the net.

    Args:
        sqnr_db: Power of the float outputs over that of the error, all held-out data together; infinite: equal.
        cosine: Mean over feeds, of float outputs and these.
        agreement: Part of the decisions that are the float model's. For neighbours without the near-ties.
        near_ties: Decisions left out of ``agreement``, and the part of those that agree.
        accuracy: Part that is right, where there are labels.
    """

    sqnr_db: float
    cosine: float
    agreement: float | None
    near_ties: tuple[int, float] | None
    accuracy: float | None


def judge(net: Net, expected: Sequence[NDArray], got: Sequence[NDArray], labels: NDArray | None) -> Verdict:
    """Compares outputs feed by feed; each is (1, ...)."""
    reference, outputs = (np.concatenate(side).astype(np.float64) for side in (expected, got))
    noise = float(np.square(outputs - reference).sum())
    power = float(np.square(reference).sum())
    flat, flat_got = reference.reshape(len(reference), -1), outputs.reshape(len(outputs), -1)
    norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(flat_got, axis=1)
    agreement, near_ties = _agreement(net, reference, outputs)
    return Verdict(
        sqnr_db=10 * math.log10(power / noise) if noise else math.inf,
        cosine=float(np.mean((flat * flat_got).sum(1) / np.maximum(norms, 1e-30))),
        agreement=agreement,
        near_ties=near_ties,
        accuracy=None if labels is None else float(np.mean(outputs.argmax(-1) == labels)),
    )


def _agreement(net: Net, reference: NDArray, outputs: NDArray) -> tuple[float | None, tuple[int, float] | None]:
    if net.decision == "class":
        return float(np.mean(reference.argmax(-1) == outputs.argmax(-1))), None
    if net.decision == "neighbour":
        first, margin = _neighbours(reference)
        same = first == _neighbours(outputs)[0]
        near = margin < NEAR_TIE
        return float(same[~near].mean()), (int(near.sum()), float(same[near].mean()) if near.any() else 1.0)
    return None, None


def _neighbours(embeddings: NDArray) -> tuple[NDArray, NDArray]:
    """For each row of (N, D) the index of the nearest other row by cosine, and its lead over the second nearest."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    best = np.sort(cosine, axis=1)
    return cosine.argmax(1), best[:, -1] - best[:, -2]
