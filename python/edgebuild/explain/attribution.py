"""How much each layer adds to the error of a quantised graph: contributions that add up to the whole, by construction.

Layers are quantised one by one, from the first to the last and from the last to the first; what the noise grows by with a layer
is its contribution in that order, and the mean of both orders is its contribution. In either order the steps telescope: they
add up to the noise with all layers less that with none. Two orders, because the noise of a layer depends on what is
quantised around it; these two are the extremes of an average over all orders (Shapley, 1953), which would take 2^n graphs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NOISE_LIMIT = 1e6
"""Noise over signal beyond which a graph is simply wrong; sums stay finite."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one layer adds to the noise over signal of the output, in order of execution and against it; below 0: it takes some away."""

    layer: str
    forward: float
    backward: float

    @property
    def mean(self) -> float:
        """Of both orders."""
        return (self.forward + self.backward) / 2


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Contributions of all layers.

    Args:
        contributions: In the order of execution.
        total: Noise over signal with all layers quantised, measured apart.
        floor: With none.
    """

    contributions: tuple[Contribution, ...]
    total: float
    floor: float

    @property
    def sum(self) -> float:
        """Of all contributions, and of what is there without any."""
        return self.floor + sum(contribution.mean for contribution in self.contributions)


def attribute(
    noise: Callable[[frozenset[str]], float],
    layers: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Attribution:
    """Contributions of layers to the noise.

    Args:
        noise: Noise over signal of the output with these layers quantised; asked once for each set.
        layers: In the order of execution.
        progress: Hears how many of how many graphs were judged.
    """
    known: dict[frozenset[str], float] = {}
    every = frozenset(layers)
    count = max(2 * len(layers), 1)

    def measured(names: Sequence[str]) -> float:
        key = frozenset(names)
        if key not in known:
            value = noise(key)
            known[key] = NOISE_LIMIT if math.isnan(value) else min(value, NOISE_LIMIT)
            progress(len(known), count)
        return known[key]

    found = []
    for index, name in enumerate(layers):
        forward = measured(layers[: index + 1]) - measured(layers[:index])
        backward = measured(layers[index:]) - measured(layers[index + 1 :])
        found.append(Contribution(layer=name, forward=forward, backward=backward))
    total = noise(every) if layers else measured(())  # once more: it is what the sum is held against
    return Attribution(contributions=tuple(found), total=min(total, NOISE_LIMIT), floor=measured(()))
