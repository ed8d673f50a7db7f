"""Signatures and arrays for the tests of calibration data."""

from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.cache import Cache
from edgebuild.data.calibration import CalibrationData, open_calibration
from edgebuild.model.signature import Signature, SymbolRange, TensorType, ValueSpec

Shape = tuple[int | str | None, ...]


def signature(
    *inputs: tuple[str, str, Shape | None], symbols: dict[str, tuple[int, int, int | None]] | None = None
) -> Signature:
    return Signature(
        inputs=tuple(ValueSpec(name=n, type=TensorType(dtype=d, shape=s)) for n, d, s in inputs),
        outputs=(),
        symbols={n: SymbolRange(minimum=a, best=b, maximum=c) for n, (a, b, c) in (symbols or {}).items()},
    )


IMAGE = signature(("x", "float32", (1, 3, 4, 5)))
DYNAMIC = signature(("x", "float32", ("batch", 3)), symbols={"batch": (1, 4, 16)})
TEXT = signature(
    ("ids", "int64", ("batch", "length")),
    ("mask", "int64", ("batch", "length")),
    symbols={"batch": (1, 1, None), "length": (1, 8, 128)},
)


def images(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 5)).astype(np.float32)


def opened(source: Any, sig: Signature, cache: Cache, **options: Any) -> CalibrationData:
    return open_calibration(source, sig, cache=cache, **options)


def stacked(data: CalibrationData, name: str = "x") -> np.ndarray[Any, Any]:
    return np.concatenate([batch[name] for batch in data.batches()])


def staged(cache: Cache) -> list[Path]:
    return sorted((cache.root / "staging").iterdir()) if (cache.root / "staging").exists() else []
