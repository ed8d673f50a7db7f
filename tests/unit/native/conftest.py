import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deb_files import put
from mirror_server import DEB, PACKAGE, Server

from edgebuild.cache import Cache
from edgebuild.native import debian_mirror
from edgebuild.native.debian_mirror import VARIABLE


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    root = tmp_path / "mirror"
    root.mkdir()
    put(root, PACKAGE, DEB)
    server = Server(root)
    monkeypatch.setenv(VARIABLE, server.uri)
    monkeypatch.setattr(debian_mirror, "_PAUSE_S", 0.0)
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
