"""The backends, each with the Python half of what it owns: what it needs from a graph, and how it lowers one."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

from edgebuild.backends.candidate import Candidate, LoweredVariant
from edgebuild.errors import UsageError

_MODULES = {"onnxruntime": "edgebuild.backends.onnxruntime"}


class Backend(Protocol):
    """What a backend's module offers."""

    NAME: str
    ENGINE: str | None
    """The engine whose library the bundle carries (native/engines.toml); None: none."""

    LOWERING: str
    """Changes whenever ``lower`` would give other bytes; part of the cache key."""

    def lower(self, candidate: Candidate, options: dict[str, str], folder: Path) -> LoweredVariant:
        """Writes into ``folder`` what the backend loads at run time."""


def find_backend(name: str) -> Backend:
    """The backend's module.

    Raises:
        UsageError: There is no backend of this name (yet).
    """
    if name not in _MODULES:
        msg = f"backend {name!r} can't be built for yet; available: {', '.join(_MODULES)}"
        raise UsageError(msg, hint=f"leave it out: --backend {next(iter(_MODULES))}")
    module: Backend = import_module(_MODULES[name])
    return module
