import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Files that may take long come first, after pytest-randomly's shuffle: begun last, one alone would keep the others' cores waiting."""
    yield
    limits: dict[Path, float] = {}
    for item in items:
        limits[item.path] = max(limits.get(item.path, 0.0), _time_limit(item))
    items.sort(key=lambda item: -limits[item.path])


def _time_limit(item: pytest.Item) -> float:
    """What a test may take in seconds, as far as it says so."""
    limit = item.get_closest_marker("timeout")
    usual = 300.0 if item.get_closest_marker("slow") else 1.0 if "unit" not in item.path.parts else 0.0
    return float(limit.args[0]) if limit else usual


@pytest.fixture(scope="module")
def module_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Path]]:
    """Makes folders that a file's tests share and that go with the last of them, unless one failed.

    What pytest's own factory makes stays until the whole run ends; caches, environments and bundles of all files together fill a disk.
    """
    made: list[Path] = []
    failed = request.session.testsfailed

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    if request.session.testsfailed == failed:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
