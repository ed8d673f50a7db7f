"""Plan: what of a graph is quantised and how, by names, so that it can be kept, compared and replayed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

from edgebuild.quantize.copies import MOST_COPIES, Split

Mode = Literal["static", "dynamic", "rowwise", "two_terms", "blockwise"]
"""How a layer is computed: on ranges measured before, on the range of each run, on that of rows scaled alike, on rows as the sum
of two terms of 8 bits, or on integer weights with float activations that the kernel quantises block by block."""


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Range moved from activations into weights before anything is quantised; see ``quantize.smooth``.

    Args:
        alpha: How much of it, from 0 to 1.
        absmax: Largest magnitude of each channel of the activations, by name.
        alphas: The same as ``alpha`` for single activations, by name.
        splits: Activations of which outlying channels are split first, by name.
    """

    alpha: float
    absmax: "Vectors"
    alphas: Mapping[str, float] = field(default_factory=dict)
    splits: Mapping[str, Split] = field(default_factory=dict)


Vectors = Mapping[str, tuple[float, ...]]
"""One number for each channel, by name."""

_LARGEST_FACTOR = 2.0**24


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is quantised.

    Args:
        modes: By layer name; a layer that is not named stays float.
        operators: Operator types that may join the integer region between static layers.
        ranges: (low, high) of each value that carries Q/DQ, by name; of the rewritten graph, if it is equalised or smoothed.
        smoothing: What is done to the float graph first; None: nothing.
        equalization: Factors by which each layer's output channels are divided before that, by layer; see ``quantize.equalize``.
        means: Mean of each input channel, by layer: biases make up for what rounding the weights shifts; see ``quantize.correct``.
        tables: Names of the embedding tables that are stored as integers; see ``quantize.tables``.
        roundings: How weights are rounded where not to the nearest, by layer and ``weights.rounding_key``; see ``quantize.adaround``.
    """

    modes: Mapping[str, Mode]
    operators: frozenset[str] = frozenset()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    smoothing: Smoothing | None = None
    equalization: Vectors = field(default_factory=dict)
    means: Vectors = field(default_factory=dict)
    tables: frozenset[str] = frozenset()
    roundings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def count(self, mode: Mode) -> int:
        """Layers of a mode."""
        return sum(1 for value in self.modes.values() if value == mode)

    def to_json(self) -> dict[str, Any]:
        """As decisions keep it; floats survive the way there and back."""
        data: dict[str, Any] = {
            "modes": dict(self.modes),
            "operators": sorted(self.operators),
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "smoothing": None
            if self.smoothing is None
            else {
                "alpha": self.smoothing.alpha,
                "absmax": _lists(self.smoothing.absmax),
                "alphas": dict(self.smoothing.alphas),
                **({"splits": _split_lists(self.smoothing.splits)} if self.smoothing.splits else {}),
            },
        }
        if self.equalization:
            data["equalization"] = _lists(self.equalization)
        if self.means:
            data["means"] = _lists(self.means)
        if self.tables:
            data["tables"] = sorted(self.tables)
        if self.roundings:
            data["roundings"] = {name: dict(packed) for name, packed in self.roundings.items()}
        return data

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
                smoothing = Smoothing(
                    alpha=float(smoothing["alpha"]),
                    absmax=_vectors(smoothing["absmax"]),
                    alphas={str(name): float(alpha) for name, alpha in smoothing.get("alphas", {}).items()},
                    splits=_splits(smoothing.get("splits", {})),
                )
            equalization = _vectors(data.get("equalization", {}))
            means = _vectors(data.get("means", {}))
            tables = _names(data.get("tables", []))
            roundings = {str(name): _texts(packed) for name, packed in data.get("roundings", {}).items()}
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            msg = f"not a quantisation plan: {error!r}"
            raise ValueError(msg) from error
        if smoothing is not None and not (
            all(map(math.isfinite, (smoothing.alpha, *smoothing.alphas.values()))) and _finite(smoothing.absmax)
        ):
            msg = "a smoothing factor is not finite"
            raise ValueError(msg)
        if not all(1 / _LARGEST_FACTOR <= x <= _LARGEST_FACTOR for vector in equalization.values() for x in vector):
            msg = f"expected factors of an equalisation between 2**-24 and 2**24, got {_odd(equalization)}"
            raise ValueError(msg)
        if not _finite(means):
            msg = "a mean of an input channel is not finite"
            raise ValueError(msg)
        wrong = sorted({str(mode) for mode in modes.values()} - set(get_args(Mode)))
        if wrong:
            msg = f"expected modes {', '.join(get_args(Mode))}, got {wrong[0]!r}"
            raise ValueError(msg)
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                msg = f"expected a range with finite ends in order for '{name}', got {low} to {high}"
                raise ValueError(msg)
        return cls(
            modes=modes,
            operators=operators,
            ranges=ranges,
            smoothing=smoothing,
            equalization=equalization,
            means=means,
            tables=tables,
            roundings=roundings,
        )


def _lists(vectors: Vectors) -> dict[str, list[float]]:
    return {name: list(values) for name, values in vectors.items()}


def _vectors(data: Any) -> dict[str, tuple[float, ...]]:
    found = {}
    for name, values in data.items():
        if not isinstance(values, list | tuple) or not all(isinstance(x, int | float) for x in values):
            msg = f"expected a list of numbers for '{name}'"
            raise TypeError(msg)
        found[str(name)] = tuple(map(float, values))
    return found


def _split_lists(splits: Mapping[str, Split]) -> dict[str, list[list[float]]]:
    return {
        name: [list(triple) for triple in zip(split.channels, split.copies, split.steps, strict=True)]
        for name, split in splits.items()
    }


def _splits(data: Any) -> dict[str, Split]:
    found = {}
    for name, triples in data.items():
        channels, copies, steps = zip(*((int(c), int(n), float(s)) for c, n, s in triples), strict=True)
        fits = all(3 <= n <= MOST_COPIES and n % 2 for n in copies) and all(math.isfinite(s) and s >= 0 for s in steps)
        if not fits or channels[0] < 0 or any(a >= b for a, b in pairwise(channels)):
            msg = f"expected ascending channels, each with an odd number of copies up to {MOST_COPIES}, for '{name}'"
            raise ValueError(msg)
        found[str(name)] = Split(channels=channels, copies=copies, steps=steps)
    return found


def _names(data: Any) -> frozenset[str]:
    if not isinstance(data, list | tuple) or not all(isinstance(name, str) for name in data):
        msg = "expected a list of names"
        raise TypeError(msg)
    return frozenset(data)


def _texts(data: Any) -> dict[str, str]:
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in data.items()):
        msg = "expected texts by name"
        raise TypeError(msg)
    return dict(data)


def _finite(vectors: Vectors) -> bool:
    return all(math.isfinite(x) for values in vectors.values() for x in values)


def _odd(vectors: Vectors) -> float:
    return next(x for v in vectors.values() for x in v if not 1 / _LARGEST_FACTOR <= x <= _LARGEST_FACTOR)
