"""The tools that compile for a board: cmake, ninja and zig (its clang, linker and C libraries) from pip, or another compiler."""

import hashlib
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgebuild.errors import ToolError
from edgebuild.targets import TargetSpec

_RUNNER_GLIBC = dict.fromkeys(("x86_64", "aarch64", "armv7l"), "2.28")
"""What ONNX Runtime's own builds need. Compiled for 2.31, a runner asks for symbols of 2.30 that it can do without."""


@dataclass(frozen=True, kw_only=True)
class CrossTools:
    """Paths of the tools."""

    cmake: Path
    ninja: Path


@dataclass(frozen=True, kw_only=True)
class CMakeToolchain:
    """A CMake toolchain file with the variables that it takes.

    ``identity`` changes with the compiler, as far as that can be told without running it; part of a runner's cache key.
    """

    file: Path
    variables: dict[str, str]
    identity: list[str]


def runner_glibc(target: TargetSpec) -> str:
    """The C library that a runner is compiled for: the target's oldest, or an older one that costs the runner nothing."""
    floor = _RUNNER_GLIBC.get(target.soc.arch, target.os.glibc)
    return min(floor, target.os.glibc, key=lambda version: tuple(int(part) for part in version.split(".")))


def choose_toolchain(target: TargetSpec, root: Path) -> CMakeToolchain:
    """The toolchain that a target asks for.

    Args:
        target: The board.
        root: Of the sources, with ``toolchains/``.

    Raises:
        ToolError: There is no file for the triple, a compiler or a sysroot is missing, or the user's file can't be read.
    """
    wanted = target.toolchain
    variables = {
        "EDGEBUILD_TRIPLE": wanted.triple,
        "EDGEBUILD_GLIBC": runner_glibc(target),
        "EDGEBUILD_CPU_FLAGS": " ".join(wanted.cpu_flags),
    }
    if wanted.sysroot is not None:
        if not Path(wanted.sysroot).is_dir():
            msg = f"the sysroot of {target.name} is no folder: {wanted.sysroot}"
            raise ToolError(msg, hint="correct [toolchain] sysroot of the target file")
        variables["EDGEBUILD_SYSROOT"] = wanted.sysroot
    if wanted.file is not None:
        try:
            text = Path(wanted.file).read_bytes()
        except OSError as error:
            msg = f"the toolchain file {wanted.file} can't be read: {error.strerror}"
            raise ToolError(msg, hint="give the path of a CMake toolchain file") from error
        digest = hashlib.sha256(text).hexdigest()
        return CMakeToolchain(file=Path(wanted.file), variables=variables, identity=["file", digest])
    if wanted.family == "zig":
        file = root / "toolchains" / "zig" / f"{wanted.triple}.cmake"
        if not file.is_file():
            known = sorted(p.stem for p in file.parent.glob("*-*.cmake"))
            msg = f"there is no toolchain file for the triple {wanted.triple!r}; known: {', '.join(known)}"
            raise ToolError(msg, hint="write one in toolchains/zig/, after the others, or choose another family")
        zig, version = find_zig()
        return CMakeToolchain(file=file, variables=variables | {"EDGEBUILD_ZIG": str(zig)}, identity=["zig", version])
    compiler = f"{wanted.triple}-g++" if wanted.family == "gnu" else "clang++"
    found = shutil.which(compiler)
    if found is None:
        msg = f"the {wanted.family} toolchain of {target.name} needs {compiler}, which is not on PATH"
        raise ToolError(msg, hint='install it, or leave [toolchain] family at "zig", which pip brings')
    file = root / "toolchains" / wanted.family / "toolchain.cmake"
    stamp = Path(found).stat()
    return CMakeToolchain(
        file=file, variables=variables, identity=[wanted.family, found, str(stamp.st_size), str(stamp.st_mtime_ns)]
    )


def find_zig() -> tuple[Path, str]:
    """The zig binary inside the ``ziglang`` package, and the package's version.

    Raises:
        ToolError: The package is not installed.
    """
    try:
        spec = importlib.util.find_spec("ziglang")
    except ImportError:  # a finder of this environment refuses it
        spec = None
    if spec is None or spec.origin is None:
        msg = "compiling the runner for a board needs the package ziglang, which is not installed"
        raise ToolError(msg, hint="pip install 'edgebuild[cross]'")
    return Path(spec.origin).parent / "zig", metadata.version("ziglang")


def find_cross_tools() -> CrossTools:
    """All tools that compiling a runner needs.

    Raises:
        ToolError: One is missing; says which and how to get it.
    """
    return CrossTools(cmake=_find_program("cmake"), ninja=_find_program("ninja"))


def _find_program(name: str) -> Path:
    beside = Path(sys.executable).parent / name  # the environment's own, also when it is not activated
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        msg = f"compiling the runner for a board needs {name}, which is not on PATH"
        raise ToolError(msg, hint="pip install 'edgebuild[cross]'")
    return Path(found)
