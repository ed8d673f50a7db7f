"""Plots as SVG texts: no script, no font, colours by CSS classes of the page, so that they read on light and dark ground."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from edgebuild.quantize.statistics import TensorStatistics

_ROW = 22
_CHARACTER = 6.6
"""Width of a character of 11 pixels, about."""

_FLOOR = 1e-7
"""Share of values in a bin that is drawn as nothing; the height is the logarithm above it."""

_TAIL = 0.0005
"""Share of values at either end that may lie outside of a histogram's window; how far they go is said in words."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One horizontal bar.

    Args:
        label: Before it.
        value: Its length; below 0 it is drawn to the left.
        text: Behind it.
        css: Class of its colour.
        low: Lower end of a whisker; None: none.
        high: Upper end.
        title: Shown when pointed at.
    """

    label: str
    value: float
    text: str
    css: str = "plain"
    low: float | None = None
    high: float | None = None
    title: str = ""


def bars(rows: Sequence[Bar], *, name: str, width: int = 860, mark: float | None = None, label: int = 44) -> str:
    """Horizontal bars on a common scale.

    Args:
        rows: From top to bottom.
        name: What is shown, for readers of the screen.
        width: In pixels.
        mark: A value at which a line is drawn, e.g. the speed of float.
        label: Longest label in characters; longer ones lose their middle.
    """
    if not rows:
        return ""
    left = min(max(len(row.label) for row in rows), label) * _CHARACTER + 12
    right = max(len(row.text) for row in rows) * _CHARACTER + 14
    ends = [0.0, *(row.value for row in rows), *(x for row in rows for x in (row.low, row.high) if x is not None)]
    if mark is not None:
        ends.append(mark)
    low, high = min(ends), max(ends)
    scale = (width - left - right) / ((high - low) or 1.0)
    height = len(rows) * _ROW + 8
    parts = [_open(width, height, name)]

    def at(value: float) -> float:
        return left + (value - low) * scale

    for index, row in enumerate(rows):
        top = 4 + index * _ROW
        start, end = sorted((at(0.0), at(row.value)))
        title = f"<title>{escape(row.title)}</title>" if row.title else ""
        parts.append(f'<g>{title}<text class="label" x="{left - 8:.1f}" y="{top + 15}" text-anchor="end">')
        parts.append(f"{escape(_shortened(row.label, label))}</text>")
        parts.append(
            f'<rect class="bar {row.css}" x="{start:.1f}" y="{top + 4}" width="{max(end - start, 1):.1f}" height="{_ROW - 8}" rx="2"/>'
        )
        if row.low is not None and row.high is not None:
            middle = top + _ROW / 2
            parts.append(
                f'<path class="whisker" d="M{at(row.low):.1f} {middle:.1f}H{at(row.high):.1f}'
                f'M{at(row.low):.1f} {middle - 4:.1f}v8M{at(row.high):.1f} {middle - 4:.1f}v8"/>'
            )
        behind = max(end, at(row.high) if row.high is not None else end)
        parts.append(f'<text class="value" x="{behind + 6:.1f}" y="{top + 15}">{escape(row.text)}</text></g>')
    if mark is not None:
        parts.append(f'<path class="mark" d="M{at(mark):.1f} 0V{height}"/>')
    return "".join([*parts, "</svg>"])


def histogram(
    held_out: TensorStatistics,
    calibration: TensorStatistics | None,
    extent: tuple[float, float] | None,
    *,
    name: str,
    width: int = 400,
    height: int = 150,
    bins: int = 80,
) -> str:
    """A value's distribution with the range that its integers cover; heights are logarithmic.

    Args:
        held_out: Filled.
        calibration: As a line; None: unknown.
        extent: (low, high), shaded beyond; None: the range of each run.
        name: What is shown.
        width: In pixels.
        height: In pixels.
        bins: Of equal width.
    """
    low, high = _window(held_out, calibration, extent)
    edges = np.linspace(low, high, bins + 1)
    base, top = height - 18, 6
    scale = (width - 2) / (high - low)

    def x(value: float) -> float:
        return 1 + (min(max(value, low), high) - low) * scale

    def y(share: float) -> float:
        full = math.log10(1 / _FLOOR)
        return base - (base - top) * max(0.0, math.log10(max(share, _FLOOR) / _FLOOR)) / full

    parts = [_open(width, height, name)]
    filled = _shares(held_out, edges)
    path = f"M{x(low):.1f} {base}" + "".join(
        f"L{x(edges[i]):.1f} {y(s):.1f}L{x(edges[i + 1]):.1f} {y(s):.1f}" for i, s in enumerate(filled)
    )
    parts.append(f'<path class="held" d="{path}L{x(high):.1f} {base}Z"/>')
    if calibration is not None:
        line = _shares(calibration, edges)
        points = "L".join(f"{x((edges[i] + edges[i + 1]) / 2):.1f} {y(s):.1f}" for i, s in enumerate(line))
        parts.append(f'<path class="calib" d="M{points}"/>')
    if extent is not None:
        for start, end in ((low, extent[0]), (extent[1], high)):
            if x(end) - x(start) > 0.5:
                parts.append(
                    f'<rect class="beyond" x="{x(start):.1f}" y="{top}" width="{x(end) - x(start):.1f}" height="{base - top}"/>'
                )
        parts += [f'<path class="range" d="M{x(end):.1f} {top}V{base}"/>' for end in extent]
    parts.append(f'<path class="axis" d="M1 {base}H{width - 1}"/>')
    ticks = {x(low): (low, "start"), x(high): (high, "end")}
    if low < 0 < high and 40 < x(0) < width - 40:
        ticks[x(0)] = (0.0, "middle")
    for place, (value, anchor) in ticks.items():
        parts.append(f'<text class="tick" x="{place:.1f}" y="{height - 5}" text-anchor="{anchor}">{value:.3g}</text>')
    for outside, place, anchor, text in (
        (held_out.high > high * (1 + 1e-9) + 1e-12, width - 4, "end", f"to {held_out.high:.3g} →"),
        (held_out.low < low * (1 + 1e-9) - 1e-12, 4, "start", f"← to {held_out.low:.3g}"),
    ):
        if outside:
            parts.append(f'<text class="tick" x="{place}" y="{top + 10}" text-anchor="{anchor}">{text}</text>')
    return "".join([*parts, "</svg>"])


def line(
    values: Sequence[float], *, name: str, low_text: str, high_text: str, width: int = 860, height: int = 160
) -> str:
    """Values in their order as one line; ``low_text`` and ``high_text`` stand at the ends of its axis."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    base, top = height - 22, 12

    def y(value: float) -> float:
        return base - (base - top) * (value - low) / spread

    step = (width - 60) / (len(values) - 1)
    points = "L".join(f"{50 + index * step:.1f} {y(value):.1f}" for index, value in enumerate(values))
    return "".join(
        [
            _open(width, height, name),
            f'<path class="axis" d="M50 {top}V{base}H{width - 10}"/>',
            f'<path class="line" d="M{points}"/>',
            *(
                f'<text class="tick" x="46" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>'
                for value in dict.fromkeys((low, high))
            ),
            f'<text class="tick" x="50" y="{height - 6}">{escape(low_text)}</text>',
            f'<text class="tick" x="{width - 10}" y="{height - 6}" text-anchor="end">{escape(high_text)}</text>',
            "</svg>",
        ]
    )


def _open(width: int, height: int, name: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{escape(name, quote=True)}">'


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    front = longest // 3
    return f"{text[:front]}…{text[len(text) - (longest - 1 - front) :]}"


def _window(
    held_out: TensorStatistics, calibration: TensorStatistics | None, extent: tuple[float, float] | None
) -> tuple[float, float]:
    """From where to where a histogram goes: the range, and nearly all of what was seen."""
    sides = [side for side in (held_out, calibration) if side is not None]
    ends = [end for side in sides for end in _quantiles(side)]
    if extent is not None:
        ends += extent
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _quantiles(statistics: TensorStatistics) -> tuple[float, float]:
    lower, upper = statistics.edges()
    ends = np.cumsum(statistics.counts.astype(np.float64))
    first = int(np.searchsorted(ends, _TAIL * ends[-1]))
    last = int(np.searchsorted(ends, (1 - _TAIL) * ends[-1]))
    return float(lower[first]), float(upper[min(last, len(upper) - 1)])


def _shares(statistics: TensorStatistics, edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of all values in each bin; a bin of the statistics is spread evenly over what it covers."""
    lower, upper = statistics.edges()
    counts = statistics.counts.astype(np.float64)
    ends = np.cumsum(counts)
    points = np.stack([lower, np.maximum(upper, lower + 1e-12 * np.maximum(np.abs(lower), 1e-30))], axis=1).ravel()
    reached = np.stack([ends - counts, ends], axis=1).ravel()
    below = np.interp(edges, points, reached, left=0.0, right=ends[-1])
    return np.asarray(np.maximum(np.diff(below), 0.0) / ends[-1], np.float64)
