"""Plan: what of a graph is quantised and how, by names, so that it can be kept, compared and replayed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Mode = Literal["static", "dynamic", "blockwise"]
"""How a layer is computed: on ranges measured before, on ranges of each run, or on integer weights with float activations
that the kernel quantises block by block."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Range moved from activations into weights before anything is quantised; see ``quantize.smooth``.

    Args:
        alpha: How much of it, from 0 to 1.
        absmax: Largest magnitude of each channel of the activations, by name.
    """

    alpha: float
    absmax: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is quantised.

    Args:
        modes: By layer name; a layer that is not named stays float.
        operators: Operator types that may join the integer region between static layers.
        ranges: (low, high) of each value that carries Q/DQ, by name; of the smoothed graph, if it is smoothed.
        smoothing: What is done to the float graph first; None: nothing.
    """

    modes: Mapping[str, Mode]
    operators: frozenset[str] = frozenset()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    smoothing: Smoothing | None = None

    def count(self, mode: Mode) -> int:
        """Layers of a mode."""
        return sum(1 for value in self.modes.values() if value == mode)

    def to_json(self) -> dict[str, Any]:
        """As decisions keep it; floats survive the way there and back."""
        return {
            "modes": dict(self.modes),
            "operators": sorted(self.operators),
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "smoothing": None
            if self.smoothing is None
            else {
                "alpha": self.smoothing.alpha,
                "absmax": {name: list(values) for name, values in self.smoothing.absmax.items()},
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """What ``to_json`` gave.

        Raises:
            ValueError: It is nothing of the kind.
        """
        try:
            modes = {str(name): mode for name, mode in data["modes"].items()}
            ranges = {str(name): (float(low), float(high)) for name, (low, high) in data["ranges"].items()}
            operators = frozenset(str(name) for name in data["operators"])
            smoothing = data.get("smoothing")
            if smoothing is not None:
                absmax = {str(name): tuple(map(float, values)) for name, values in smoothing["absmax"].items()}
                smoothing = Smoothing(alpha=float(smoothing["alpha"]), absmax=absmax)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            msg = f"not a quantisation plan: {error!r}"
            raise ValueError(msg) from error
        if smoothing is not None and not all(
            math.isfinite(x) for x in (smoothing.alpha, *(v for values in smoothing.absmax.values() for v in values))
        ):
            msg = "a smoothing factor is not finite"
            raise ValueError(msg)
        wrong = sorted({str(mode) for mode in modes.values()} - set(get_args(Mode)))
        if wrong:
            msg = f"expected modes {', '.join(get_args(Mode))}, got {wrong[0]!r}"
            raise ValueError(msg)
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                msg = f"expected a range with finite ends in order for '{name}', got {low} to {high}"
                raise ValueError(msg)
        return cls(modes=modes, operators=operators, ranges=ranges, smoothing=smoothing)
