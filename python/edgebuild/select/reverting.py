"""Reverting: layers of a candidate that does not fit go back to float, those with the most noise for their work first, as few as do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgebuild.quantize.candidate import without
from edgebuild.quantize.layers import Layer
from edgebuild.quantize.plan import Plan
from edgebuild.select.budget import Budget
from edgebuild.select.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a search lends.

    Args:
        judge: Scores a trial and keeps it.
        confirm: Judges it by all data, and by its speed if it fits: the final trial, None if it does not hold; and whether it fits.
        noise: Of a plan at the outputs, over the signal, on a few batches.
        left: How many trials may still be judged.
        layers: Of the graph, by name.
        budget: What may be lost.
        progress: Hears what is being done.
    """

    judge: Callable[[Trial], Trial]
    confirm: Callable[[Trial], tuple[Trial | None, bool]]
    noise: Callable[[Plan], float]
    left: Callable[[], int]
    layers: Mapping[str, Layer]
    budget: Budget
    progress: Callable[[str], None]


def revert(start: Trial, tools: Tools) -> Trial | None:
    """As few layers as do, the worst error per work first; the number is found by bisection. None: no number does."""
    if tools.left() <= 0:
        return None
    order = _order(start, tools)
    low, high, found = 1, len(order) - 1, None
    while low <= high and tools.left() > 0:
        middle = (low + high) // 2
        trial = tools.judge(_reverted(start, order[:middle]))
        if trial.fits:
            found, high = trial, middle - 1
        else:
            low = middle + 1
    # What just fits on the data of the search may just not fit on all.
    while found is not None:
        final, fits = tools.confirm(found)
        if final is not None or fits:
            return final
        more = len(found.reverted) + 1 + len(found.reverted) // 4
        found = _reverted(start, order[:more]) if more < len(order) else None
    return None


def _reverted(start: Trial, layers: Sequence[str]) -> Trial:
    name = f"{start.name}, {len(layers)} of {len(start.plan.modes)} layers float"
    return replace(start, name=name, plan=without(start.plan, frozenset(layers)), reverted=tuple(layers), speed=None)


def _order(start: Trial, tools: Tools) -> list[str]:
    """Layers by the noise that each adds alone, per multiplication that it would take back to float."""
    weight = {}
    for index, name in enumerate(start.plan.modes):
        tools.progress(f"error of layer {index + 1} of {len(start.plan.modes)}")
        layer = tools.layers[name]
        noise = tools.noise(without(start.plan, frozenset(start.plan.modes) - {name}))
        weight[name] = noise / max(layer.multiplications() or layer.weight_size, 1)
    return sorted(weight, key=lambda name: -weight[name])
