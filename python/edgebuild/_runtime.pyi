from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

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
    def passed_over(self) -> list[tuple[str, str]]: ...
    def run(
        self,
        inputs: dict[str, Any],
        deadline: float | None,
        out: dict[str, np.ndarray[Any, Any]] | None,
        profile: bool,
    ) -> dict[str, Any]: ...
    def profile(self) -> list[tuple[str, str, str, int, int]]: ...
    def close(self) -> None: ...
