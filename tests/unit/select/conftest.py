import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from search_tools import runner_of_searches


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs a search on a graph of 16 products whose candidates are never written."""
    return runner_of_searches(monkeypatch, tmp_path)
