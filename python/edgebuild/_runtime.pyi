from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

def preprocess(
    images: NDArray[Any],
    *,
    resize_shorter: int,
    resize: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    interpolation: str,
    channels: str,
    layout: str,
    dtype: str,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> NDArray[Any]: ...

class Runner:
    def __init__(
        self,
        path: str,
        *,
        backend: str,
        variant: str,
        fallback: bool,
        options: Mapping[str, str],
        runtime_path: str,
        state_dir: str,
        cache_dir: str,
        tuning: bool,
        slow_path: Callable[[Any, str, str], NDArray[Any]],
    ) -> None: ...
    @property
    def signature_json(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def engine_version(self) -> str: ...
    @property
    def bundle_id(self) -> str: ...
    @property
    def variant_order(self) -> str: ...
    @property
    def passed_over(self) -> list[tuple[str, str]]: ...
    def run(
        self,
        inputs: dict[str, Any],
        deadline: float | None,
        out: dict[str, np.ndarray[Any, Any]] | None,
        profile: bool,
    ) -> dict[str, Any]: ...
    def preprocess(self, name: str, images: NDArray[Any]) -> NDArray[Any]: ...
    def profile(self) -> list[tuple[str, str, str, int, int]]: ...
    def close(self) -> None: ...

def variant_order(
    *, bundle_id: str, arch: str, names: Sequence[str], state_dir: str, threads: int, tuning: bool
) -> tuple[list[str], bool, str]: ...

class Histogram:
    def __init__(self) -> None: ...
    def add(self, array: NDArray[Any]) -> int | None: ...
    def merge(self, other: Histogram) -> None: ...
    def bins(self) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]: ...
    @property
    def count(self) -> int: ...
    @property
    def not_finite(self) -> int: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...

class ChannelStatistics:
    def __init__(self, axis: int) -> None: ...
    def add(self, array: NDArray[Any]) -> None: ...
    def merge(self, other: ChannelStatistics) -> None: ...
    @property
    def axis(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def low(self) -> NDArray[np.float64]: ...
    @property
    def high(self) -> NDArray[np.float64]: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def mean_square(self) -> NDArray[np.float64]: ...

def quantization_errors(
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    counts: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    levels: int,
    symmetric: bool,
) -> NDArray[np.float64]: ...
