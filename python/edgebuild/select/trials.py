"""What a search tries, and what it comes to."""

import math
from dataclasses import dataclass

from edgebuild.quantize.plan import Plan
from edgebuild.quantize.ranges import RangeMethod
from edgebuild.select.budget import Score
from edgebuild.select.measure import Comparison


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate that was made and judged.

    Args:
        name: Placement, rewriting and range method, in words.
        base: Name of its base.
        method: Range method of its static ranges; None: it has none.
        plan: What is quantised.
        score: On the data of the search; None: only its speed was looked at.
        violations: What is outside the budget.
        speed: Against float; None: not measured.
        reverted: Layers left float for the sake of accuracy.
        made_s: Seconds from the beginning of the search to the moment when its file was complete, calibration included.
    """

    name: str
    placement: str
    base: str
    method: RangeMethod | None
    plan: Plan
    score: Score | None = None
    violations: tuple[str, ...] = ()
    speed: Comparison | None = None
    reverted: tuple[str, ...] = ()
    made_s: float | None = None

    @property
    def fits(self) -> bool:
        """Whether it was judged and is inside the budget."""
        return self.score is not None and not self.violations


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the search came to.

    Args:
        chosen: None: float is better, or nothing fits; ``reason`` says which and names the layers.
        trials: All that was tried, in order.
        reason: Why nothing was chosen; empty if something was.
    """

    chosen: Trial | None
    trials: tuple[Trial, ...]
    reason: str = ""


def noise_share(score: Score) -> float:
    """Noise over signal, of the worst output."""
    return 10 ** (-score.sqnr_db / 10) if math.isfinite(score.sqnr_db) else (0.0 if score.sqnr_db > 0 else math.inf)


def merit(score: Score) -> tuple[float, float]:
    """What one candidate's score is better than another's by: the user's own, else decisions; then the noise."""
    if score.value is not None:
        return score.value, score.sqnr_db
    agreements = [output.agreement for output in score.outputs if output.agreement is not None]
    return min(agreements, default=1.0), score.sqnr_db
