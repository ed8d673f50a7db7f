"""Adaptive roundings that candidates share: a layer's are found once for each way in which its activation is prepared."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from edgebuild.quantize.plan import Plan, Smoothing
from edgebuild.targets.spec import QuantizationScheme

Roundings = Mapping[str, Mapping[str, str]]
"""By layer and ``weights.rounding_key``; see ``Plan.roundings``."""

Solve = Callable[[Smoothing | None, Collection[str], Sequence[QuantizationScheme], float], Roundings]
"""Roundings of layers in the float graph so smoothed, for schemes, within so many seconds."""

_Prepared = tuple[float, tuple[tuple[int, int], ...]] | None


class SharedRoundings:
    """Keeps what was solved.

    Smoothing that is folded into a product divides its columns, each of which has a scale of its own: its rounding stays.

    Args:
        solve: Finds roundings.
        activations: Of layers whose activation may be smoothed: its name.
        judged: The scheme that candidates are judged by.
        schemes: All, the others' roundings are found by ``all_schemes``.
        seconds: For each of the two.
    """

    def __init__(
        self,
        solve: Solve,
        activations: Mapping[str, str],
        judged: QuantizationScheme,
        schemes: Sequence[QuantizationScheme],
        seconds: float,
    ) -> None:
        self._solve, self._activations = solve, activations
        self._judged, self._schemes = judged, schemes
        self._left = {False: seconds, True: seconds}
        self._kept: dict[tuple[str, _Prepared, bool], Mapping[str, str]] = {}

    def judged(self, plan: Plan) -> Roundings:
        """For the judged scheme alone."""
        return self._found(plan, others=False)

    def all_schemes(self, plan: Plan) -> Roundings:
        """For all schemes."""
        first, others = self._found(plan, others=False), self._found(plan, others=True)
        return {name: {**others.get(name, {}), **first.get(name, {})} for name in {**first, **others}}

    def _found(self, plan: Plan, *, others: bool) -> Roundings:
        schemes = [scheme for scheme in self._schemes if scheme != self._judged] if others else [self._judged]
        # Blockwise weights have scales of their own.
        keys = {
            name: (name, self._prepared(plan, name), others) for name, mode in plan.modes.items() if mode != "blockwise"
        }
        wanted = [name for name, key in keys.items() if key not in self._kept]
        if wanted and schemes and self._left[others] > 0:
            begun = time.monotonic()
            solved = self._solve(plan.smoothing, wanted, schemes, self._left[others])
            self._left[others] -= time.monotonic() - begun
            self._kept |= {keys[name]: solved.get(name, {}) for name in wanted}
        return {name: found for name, key in keys.items() if (found := self._kept.get(key))}

    def _prepared(self, plan: Plan, layer: str) -> _Prepared:
        activation = self._activations.get(layer)
        if plan.smoothing is None or activation is None:
            return None
        split = plan.smoothing.splits.get(activation)
        copies = () if split is None else tuple(zip(split.channels, split.copies, strict=True))
        return plan.smoothing.alphas.get(activation, plan.smoothing.alpha), copies
