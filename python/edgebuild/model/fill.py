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


def random_value(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    sequence: int,
    span: tuple[int, int],
    lengths: bool = False,
) -> "np.ndarray[Any, Any]":
    """A random value that suits the input's name and type.

    Args:
        name: Of the input.
        dtype: Our name of its element type.
        shape: Its sizes.
        rng: Where the numbers come from.
        sequence: The size that lengths count.
        span: Least and greatest integer.
        lengths: Whether it holds lengths, whatever its name says.
    """
    kind = numpy_dtype(dtype)
    if dtype == "string":
        words = rng.integers(ord("a"), ord("z") + 1, size=shape)
        return np.vectorize(chr, otypes=[object])(words) if words.size else np.full(shape, "", dtype=object)
    if lengths or is_lengths(name, dtype):
        values = rng.integers(min(1, sequence), sequence + 1, size=shape)
        ordered = np.sort(values.reshape(-1))[::-1]
        if ordered.size:
            ordered[0] = sequence  # the longest fills the axis; sorted, as enforce_sorted wants it
        return ordered.reshape(shape).astype(kind)
    if is_mask(name):
        return _mask(name, dtype, shape, rng)
    if dtype in FLOATS:
        return np.asarray(rng.standard_normal(shape)).astype(kind)
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, size=shape)).astype(bool)
    if dtype.startswith("complex"):
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(kind)
    low, high = span
    return np.asarray(rng.integers(low, high + 1, size=shape)).astype(kind)


def _mask(name: str, dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> "np.ndarray[Any, Any]":
    """A prefix of the last axis attends, at least its first position; square masks are causal."""
    kind = numpy_dtype(dtype)
    if not shape:
        return np.ones(shape, dtype=kind)
    if len(shape) >= 2 and shape[-1] == shape[-2] and shape[-1] > 1 and not is_padding_mask(name):
        attended = np.broadcast_to(np.tril(np.ones(shape[-2:], dtype=bool)), shape)
    else:
        rows = rng.integers(min(1, shape[-1]), shape[-1] + 1, size=(*shape[:-1], 1))
        attended = np.arange(shape[-1]) < rows
    if dtype in FLOATS:
        return attended.astype(kind)
    return (~attended if is_padding_mask(name) and dtype == "bool" else attended).astype(kind)
