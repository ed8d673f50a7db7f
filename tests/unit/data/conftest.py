import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from edgebuild.cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
