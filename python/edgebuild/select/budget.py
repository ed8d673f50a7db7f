"""The accuracy budget: what a quantised variant may lose, and whether it stayed inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgebuild.errors import UsageError
from edgebuild.select.metrics import Kind, OutputScore

DEFAULT_MAX_DROP = 0.005
DEFAULT_MIN_AGREEMENT = 0.98
DEFAULT_MIN_SQNR_DB = 20.0
EMBEDDING_SQNR_DB = 33.5
"""For rows of length 1, which are compared with each other: at 18.9 dB one nearest neighbour in 9 is another one, at 27.6 one in 28, at 30.9 one in
42, at 33 one in 43 to 67, at 33.8 one in 55 (MiniLM, 1,000 sentences; the standard error is 0.45 points; 2.1 times the speed of float)."""

DECISION_SQNR_DB = 12.0
"""For outputs that are judged by their decisions: noise of a quarter of the signal, which far from a tie changes none."""


_LEAST_DB: dict[Kind, float] = {
    "decision": DECISION_SQNR_DB,
    "choices": DEFAULT_MIN_SQNR_DB,
    "embedding": EMBEDDING_SQNR_DB,
    "value": DEFAULT_MIN_SQNR_DB,
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be lost against the float model.

    Args:
        max_drop: Of the user's own score (``--eval``), absolute: 0.005 is half a point of an accuracy between 0 and 1.
        min_agreement: Share of decisions that must agree; None: 0.98 of those of outputs that decide once for each sample.
        min_sqnr_db: Signal to noise of all outputs; None: 12 dB beside such decisions, 33.5 dB for embeddings, else 20 dB, a cosine of 0.995.
    """

    max_drop: float = DEFAULT_MAX_DROP
    min_agreement: float | None = None
    min_sqnr_db: float | None = None

    def __post_init__(self) -> None:
        """Refuses what would let everything through, or nothing at all.

        Raises:
            UsageError: A number that is none, or outside of its range.
        """
        if not self.max_drop >= 0:
            msg = f"--max-drop: expected a number of 0 or more, got {self.max_drop:g}"
            raise UsageError(
                msg,
                hint="it is what the score of --eval may lose, absolute: 0.005 is half a point of an accuracy of 0 to 1",
            )
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            msg = f"--min-agreement: expected a share between 0 and 1, got {self.min_agreement:g}"
            raise UsageError(msg, hint="98 % is --min-agreement 0.98")
        if self.min_sqnr_db is not None and not self.min_sqnr_db < math.inf:
            msg = f"--min-sqnr: expected decibels, got {self.min_sqnr_db:g}"
            raise UsageError(msg, hint="20 is a cosine of 0.995; float itself ships without --int8")

    def to_json(self) -> dict[str, Any]:
        """What is unlimited is None."""
        return {key: value if value is None or math.isfinite(value) else None for key, value in vars(self).items()}

    @classmethod
    def unlimited(cls) -> "Budget":
        """Everything is inside: for data that says nothing about accuracy."""
        return cls(max_drop=math.inf, min_agreement=0.0, min_sqnr_db=-math.inf)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A variant on the held-out data: each output against the float model, and the user's own score if there is one."""

    outputs: tuple[OutputScore, ...]
    value: float | None = None
    float_value: float | None = None

    @property
    def drop(self) -> float | None:
        """Points lost by the user's own score; below 0: gained."""
        if self.value is None or self.float_value is None:
            return None
        return self.float_value - self.value

    @property
    def sqnr_db(self) -> float:
        """Of the worst output."""
        return min((output.sqnr_db for output in self.outputs), default=float("inf"))

    def to_json(self) -> dict[str, Any]:
        return {
            "outputs": [output.to_json() for output in self.outputs],
            "value": self.value,
            "float_value": self.float_value,
        }


def violations(score: Score, budget: Budget) -> tuple[str, ...]:
    """What is outside the budget, in words; empty: nothing.

    A user's own score decides alone. Without one every output is held to its decisions, or its signal to noise.
    """
    if score.drop is not None:
        if score.drop <= budget.max_drop:
            return ()
        return (
            f"score {score.value:.4g}, float {score.float_value:.4g}: dropped {score.drop:.4g}, allowed {budget.max_drop:g}",
        )
    return tuple(_output_violations(score.outputs, budget))


def excess(score: Score, budget: Budget) -> float | None:
    """Noise over what the budget allows, of the worst output; None: it is something else that decides, or there is no limit."""
    if score.drop is not None or any(_too_few_agree(output, budget) is not None for output in score.outputs):
        return None
    limits = [(_least_db(output, budget), output.sqnr_db) for output in score.outputs]
    return max((10 ** ((least - got) / 10) for least, got in limits if math.isfinite(least)), default=None)


def _least_db(output: OutputScore, budget: Budget) -> float:
    return _LEAST_DB[output.kind] if budget.min_sqnr_db is None else budget.min_sqnr_db


def _too_few_agree(output: OutputScore, budget: Budget) -> float | None:
    """The share that is needed, where it is not reached."""
    # Whether each place of (N, C, H, W) chooses a class, or is a value of C channels, can't be told: only if asked for.
    needed = budget.min_agreement
    if needed is None:
        needed = DEFAULT_MIN_AGREEMENT if output.kind == "decision" else 0.0
    return needed if output.agreement is not None and output.agreement < needed else None


def _output_violations(outputs: Sequence[OutputScore], budget: Budget) -> list[str]:
    found = []
    for output in outputs:
        needed = _too_few_agree(output, budget)
        if needed is not None:
            found.append(
                f"output '{output.output}': {output.agreement:.2%} of {output.decisions} decisions agree with float, "
                f"needed {needed:.2%}"
            )
        least = _least_db(output, budget)
        if output.sqnr_db < least:
            got = (
                f"{output.sqnr_db:.1f}" if output.sqnr_db < least - 0.05 else f"{output.sqnr_db:.3f}"
            )  # 33.5 is not 33.5
            found.append(f"output '{output.output}': signal to noise {got} dB, needed {least:g} dB")
    return found
