import functools
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from edgebuild.cache import Cache
from edgebuild.devices.scratch import open_graph


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def opener(cache: Cache) -> Any:
    """Opens graphs with the installed ONNX Runtime, through the C++ runner."""
    engine = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    return functools.partial(open_graph, engine=engine, cache=cache)
