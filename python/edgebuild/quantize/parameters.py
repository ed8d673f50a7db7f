"""From a real range to scale and zero point of an integer type."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_TYPES: dict[str, type[np.integer[Any]]] = {
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
}

SMALLEST_SCALE = 2.0**-63
"""Products of an activation's and a weight's scale must stay normal float32 numbers: from 2**-126 on."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """``real = scale * (integer - zero_point)``; both are of the types that QuantizeLinear wants."""

    scale: np.float32
    zero_point: np.integer[Any]


def quantization_parameters(low: float, high: float, dtype: str, *, symmetric: bool) -> Parameters:
    """Scale and zero point for a range; 0 is always represented exactly.

    Args:
        low: Lower end, at most 0 after the range is extended to hold 0.
        high: Upper end.
        dtype: "uint8", "int8", "uint16" or "int16".
        symmetric: Zero point in the middle: 0 for signed types; the range is extended to be symmetric.

    Raises:
        ValueError: An end is not finite, or low > high.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        msg = f"a range needs finite ends in order, got {low} to {high}"
        raise ValueError(msg)
    kind = _TYPES[dtype]
    info = np.iinfo(kind)
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        half = (int(info.max) - int(info.min)) // 2
        scale = max(-low, high) / half
        zero = 0 if info.min < 0 else half + 1
    else:
        scale = (high - low) / (int(info.max) - int(info.min))
        zero = round(int(info.min) - low / scale) if scale > 0 else int(info.min)
    scale = min(max(scale, SMALLEST_SCALE), float(np.finfo(np.float32).max) / (int(info.max) - int(info.min) + 1))
    zero = min(max(zero, int(info.min)), int(info.max))
    return Parameters(scale=np.float32(scale), zero_point=kind(zero))
