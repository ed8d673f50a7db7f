"""Values for one input: plain ones to try a shape with, and seeded random ones."""

import re
from typing import Any

import numpy as np

from edgebuild.model.values import FLOATS, numpy_dtype


def is_mask(name: str) -> bool:
    """Whether an input of that name says what is attended to."""
    return "mask" in name.lower()


def is_padding_mask(name: str) -> bool:
    """PyTorch's ``*_padding_mask``: True marks what is *not* attended to."""
    return "padding" in name.lower() and is_mask(name)


def is_lengths(name: str, dtype: str) -> bool:
    """Whether an integer input of that name holds the lengths of sequences."""
    return bool(re.search(r"len(s|gths?)?(_|$|\d)", name.lower())) and dtype in ("int64", "int32", "int16")


def plain_value(name: str, dtype: str, shape: tuple[int, ...], sequence: int) -> "np.ndarray[Any, Any]":
    """The most harmless value: normal floats, zero integers, masks that attend to everything, full lengths."""
    kind = numpy_dtype(dtype)
    if dtype == "string":
        return np.full(shape, "a", dtype=object)
    if dtype in FLOATS and not is_mask(name):
        rng = np.random.default_rng(0)
        return np.asarray(rng.standard_normal(shape), dtype=np.float32).astype(kind)
    if is_lengths(name, dtype):
        return np.full(shape, sequence, dtype=kind)
    if is_mask(name) and not is_padding_mask(name):
        if dtype in FLOATS:
            return np.zeros(shape, dtype=kind)  # additive masks: 0 attends
        return np.ones(shape, dtype=kind)
    return np.zeros(shape, dtype=kind)
