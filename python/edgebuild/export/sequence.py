"""Modules that keep state: an attribute that ``forward`` changes, and on which later outputs depend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebuild.export.arrays import Array, to_numpy, to_torch
from edgebuild.export.flat import flat_module
from edgebuild.model.probe import State
from edgebuild.model.source import Inputs, ModelSource

_LEAST = 4
"""At least; the samples are taken again from the first on."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of a module that keeps state, each from the state that the one before left.

    Args:
        samples: The steps' inputs.
        expected: The original's outputs.
        attributes: What ``forward`` changes.
    """

    samples: tuple[Inputs, ...]
    expected: tuple[list[Array], ...]
    attributes: tuple[str, ...]


def find_sequence(source: ModelSource, expected: Sequence[Sequence[Array]], state: State) -> Steps | None:
    """Runs the samples one after the other without putting the state back in between.

    Args:
        source: The model.
        expected: Its outputs for each sample, each from the state that the file holds.
        state: Knows that state; it is put back at the end.

    Returns:
        The steps; None if ``forward`` changes nothing that an output depends on.
    """
    module = flat_module(source)
    state.restore()
    _run(module, source, source.samples[0])
    state.restore()
    if not state.changed:
        return None
    # A state may have the size of a batch, so the steps all have the first sample's sizes.
    shapes = _shapes(source.samples[0])
    fitting = [index for index, sample in enumerate(source.samples) if _shapes(sample) == shapes]
    steps = [fitting[index % len(fitting)] for index in range(max(_LEAST, len(fitting)))]
    outputs = [_run(module, source, source.samples[index]) for index in steps]
    state.restore()
    if all(_same(got, expected[index]) for index, got in zip(steps, outputs, strict=True)):
        return None
    return Steps(
        samples=tuple(source.samples[index] for index in steps),
        expected=tuple(outputs),
        attributes=tuple(sorted(state.changed)),
    )


def _run(module: Any, source: ModelSource, sample: Inputs) -> list[Array]:
    import torch

    with torch.no_grad():
        return [to_numpy(value) for value in module(*(to_torch(np.asarray(sample[s.name])) for s in source.inputs))]


def _shapes(sample: Inputs) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(value) for name, value in sample.items()}


def _same(left: Sequence[Array], right: Sequence[Array]) -> bool:
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))
