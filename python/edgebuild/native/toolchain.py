"""The tools that compile for a board: zig (its clang, linker and C libraries), cmake, ninja; all from pip."""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgebuild.errors import ToolError


@dataclass(frozen=True, kw_only=True)
class CrossTools:
    """Paths of the tools and zig's version, which is part of every cache key."""

    zig: Path
    zig_version: str
    cmake: Path
    ninja: Path


def find_zig() -> tuple[Path, str]:
    """The zig binary inside the ``ziglang`` package, and the package's version.

    Raises:
        ToolError: The package is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        msg = "compiling the runner for a board needs the package ziglang, which is not installed"
        raise ToolError(msg, hint="pip install 'edgebuild[cross]'")
    return Path(spec.origin).parent / "zig", metadata.version("ziglang")


def find_cross_tools() -> CrossTools:
    """All tools that compiling a runner needs.

    Raises:
        ToolError: One is missing; says which and how to get it.
    """
    zig, version = find_zig()
    return CrossTools(zig=zig, zig_version=version, cmake=_find_program("cmake"), ninja=_find_program("ninja"))


def _find_program(name: str) -> Path:
    beside = Path(sys.executable).parent / name  # the environment's own, also when it is not activated
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        msg = f"compiling the runner for a board needs {name}, which is not on PATH"
        raise ToolError(msg, hint="pip install 'edgebuild[cross]'")
    return Path(found)
