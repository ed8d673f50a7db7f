"""What an explanation of a quantised graph holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgebuild.explain.causes import Cause
from edgebuild.explain.findings import Finding
from edgebuild.quantize.statistics import TensorStatistics


@dataclass(frozen=True, kw_only=True)
class LayerExplanation:
    """One layer.

    Args:
        name: Of its first node.
        operator: E.g. "Conv".
        mode: How it is computed; "float" if it was reverted.
        noise: That it adds to the output, over signal; the mean of two orders.
        spread: Half the difference between both.
        share: Of all noise.
        cause: Of the largest part.
        detail: Of that.
        reverted: Whether it was taken back to float for the sake of accuracy.
    """

    name: str
    operator: str
    mode: str
    noise: float
    spread: float
    share: float
    cause: Cause
    detail: str
    reverted: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueExplanation:
    """One value that is integers: its range and its distribution, for the plots."""

    name: str
    extent: tuple[float, float] | None
    layers: tuple[str, ...]
    share: float
    cause: Cause
    detail: str
    held_out: TensorStatistics
    calibration: TensorStatistics | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What explains a quantised graph.

    Args:
        candidate: Its name.
        shipped: Whether it is in the bundle, but for what was reverted.
        total: Noise over signal of the worst output with all layers quantised, measured.
        sum: Of the layers' contributions.
        on_calibration: The total on calibration data; None: there is none.
        output: The output that is meant.
        batches: Held-out batches that were looked at.
        findings: Reasons, the most important first.
        layers: In the order of execution.
        values: The same.
        noise_by_value: Noise over signal of each value that both graphs compute.
    """

    candidate: str
    shipped: bool
    total: float
    sum: float
    on_calibration: float | None
    output: str
    batches: int
    findings: tuple[Finding, ...]
    layers: tuple[LayerExplanation, ...]
    values: tuple[ValueExplanation, ...]
    noise_by_value: Mapping[str, float] = field(default_factory=dict)
