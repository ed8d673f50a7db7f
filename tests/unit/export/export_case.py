"""How the corpus's models are registered: a model, how to draw one input set, in which forms it is tested."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

Arrays = list[np.ndarray]
Draw = Callable[[np.random.Generator, int], Arrays]


@dataclass(frozen=True)
class Case:
    """A model and how to draw one input set. ``forms``: t traced, s scripted, e nn.Module. ``dynamic``: (input, axis) -> symbol."""

    name: str
    build: Callable[[], nn.Module]
    draw: Draw
    forms: str = "tse"
    dynamic: tuple[tuple[int, int, str], ...] = ()


CASES: list[Case] = []


def floats(*shape: int) -> Draw:
    """Draws one float32 input; -1 stands for the dynamic size."""
    return lambda rng, size: [rng.standard_normal([size if d < 0 else d for d in shape]).astype(np.float32)]


def case(name: str, draw: Draw, forms: str = "tse", dynamic=()):
    def register(build):
        CASES.append(Case(name, build, draw, forms, tuple(dynamic)))
        return build

    return register
