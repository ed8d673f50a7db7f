"""What a benchmark net is: a module, its inputs, and data to calibrate with and to judge it by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

Feed = Mapping[str, NDArray]
"""One set of inputs by name, batch size 1."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Data that no calibration sees. ``labels`` (N,): the truth for each feed, where there is one."""

    feeds: Sequence[Feed]
    labels: NDArray | None = None


@dataclass(frozen=True, kw_only=True)
class Net:
    """One net of the figures.

    Args:
        name: As on the command line.
        make: Builds the module in evaluation mode, the same every time; its one output is a float32 tensor.
        inputs: Name of each argument and its type as ``--input`` takes it, e.g. ``{"x": "float32[1,3,224,224]"}``.
        calibration: Makes so many feeds to calibrate with.
        held_out: Makes the feeds to judge by.
        decision: What a decision is: "class" (top-1 of the last axis), "neighbour" (nearest other embedding) or None.
        mark: The speed-up over ONNX Runtime's float model to aim for; None: no mark.
        in_mean: Whether the net counts in the geometric mean over the nets that ONNX Runtime's defaults do badly on.
        sources: Modules under nets/ that decide what ``make`` returns; a change there makes the net anew.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Mapping[str, str]
    calibration: Callable[[int], Sequence[Feed]]
    held_out: Callable[[], HeldOut]
    decision: Literal["class", "neighbour"] | None
    mark: float | None = None
    in_mean: bool = False
    sources: tuple[str, ...] = ()


def feeds_of(name: str, batch: NDArray) -> list[dict[str, NDArray]]:
    """One feed for each row of ``batch`` (N, ...)."""
    return [{name: np.ascontiguousarray(row[None])} for row in batch]
