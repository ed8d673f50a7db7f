"""Compiles a backend's plugin for a target, against the engine that it is linked with; cached like the runner."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgebuild.cache import Cache, content_key
from edgebuild.errors import ToolError
from edgebuild.installed_torch import InstalledTorch
from edgebuild.machine import machine_arch
from edgebuild.native.libtorch import identity, require_torch
from edgebuild.native.process import run_tool
from edgebuild.native.sources import find_sources
from edgebuild.native.toolchain import find_cross_tools
from edgebuild.report import Progress
from edgebuild.targets import BackendSpec, TargetSpec

PLUGIN_FILE = "libedgebuild_libtorch.so"
_PASSED_ON = ("PATH", "HOME", "TMPDIR")


@dataclass(frozen=True, kw_only=True)
class Compilers:
    """A C and a C++ compiler whose C++ library is libstdc++, LibTorch's own."""

    c: Path
    cxx: Path

    @property
    def identity(self) -> list[str]:
        """Changes with the compiler, as far as that can be told without running it."""
        stamp = self.cxx.resolve().stat()
        return [self.cxx.name, str(stamp.st_size), str(stamp.st_mtime_ns)]


def find_compilers(target: TargetSpec) -> Compilers:
    """GCC or Clang of this system, for the target's architecture.

    zig, which compiles the runner, has a C++ library of its own that LibTorch's objects do not go together with.

    Raises:
        ToolError: There is none.
    """
    triple = target.toolchain.triple
    pairs = [(f"{triple}-gcc", f"{triple}-g++")]
    if target.soc.arch == machine_arch():
        pairs = [("gcc", "g++"), *pairs, ("clang", "clang++")]
    for c, cxx in pairs:
        found = (shutil.which(c), shutil.which(cxx))
        if found[0] and found[1]:
            return Compilers(c=Path(found[0]), cxx=Path(found[1]))
    names = ", ".join(cxx for _, cxx in pairs)
    msg = f"LibTorch's plugin needs a C++ compiler with libstdc++ for {triple}: none of {names} is on PATH"
    raise ToolError(msg, hint="install one, e.g. apt install g++; the runner and the other backends need none")


def check_plugin(target: TargetSpec, spec: BackendSpec) -> None:
    """Finds out before a long export whether ``build_plugin`` has what it needs. Raises as it does."""
    require_torch(spec.version, target.soc.arch)
    find_compilers(target)
    find_cross_tools()


def build_plugin(target: TargetSpec, spec: BackendSpec, cache: Cache, progress: Progress) -> Path:
    """The stripped plugin that runs TorchScript with LibTorch: from the cache, or compiled now.

    Raises:
        ToolError: A compiler, a tool or torch is missing, or the compiler failed.
        IncompatibleError: The installed torch is another version than the target pins.
    """
    torch = require_torch(spec.version, target.soc.arch)
    compilers = find_compilers(target)
    sources = find_sources()
    key = content_key("plugin", sources.plugin_digest(), compilers.identity, identity(torch), target.toolchain.triple)

    def make(folder: Path) -> None:
        progress.note(f"compiling the LibTorch plugin with {compilers.cxx.name} (once; it takes some minutes)")
        _compile(sources.root, sources.third_party, torch, compilers, folder, progress)

    return cache.get_or_make("native", key, make) / PLUGIN_FILE


def _compile(
    root: Path, third_party: Path, torch: InstalledTorch, compilers: Compilers, folder: Path, progress: Progress
) -> None:
    tools = find_cross_tools()
    # Nothing else of the user's environment: flags and search paths in it would change the plugin.
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
    with tempfile.TemporaryDirectory(prefix="edgebuild-native-") as build:
        # Checks in LibTorch's headers name their own files.
        prefixes = {torch.root: "torch", root: "edgebuild", build: "build"}
        flags = " ".join(f"-ffile-prefix-map={path}={name}" for path, name in prefixes.items())
        configure = [
            str(tools.cmake),
            *("-S", str(root), "-B", build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tools.ninja}",
            f"-DCMAKE_C_COMPILER={compilers.c}",
            f"-DCMAKE_CXX_COMPILER={compilers.cxx}",
            f"-DCMAKE_CXX_FLAGS={flags}",
            f"-DEDGEBUILD_LIBTORCH_ROOT={torch.root}",
            f"-DEDGEBUILD_THIRD_PARTY_DIR={third_party}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_MODULE_LINKER_FLAGS_RELEASE=-s",
            "-DCMAKE_SKIP_RPATH=ON",  # the runner loads LibTorch before the plugin
            "-DEDGEBUILD_APPS=OFF",
            "-DEDGEBUILD_LIBRARY=OFF",
            "-DEDGEBUILD_PYTHON=OFF",
            "-DEDGEBUILD_TESTS=OFF",
        ]
        run_tool(configure, environment, "configure the LibTorch plugin")
        run_tool(
            [str(tools.cmake), "--build", build, "--target", "edgebuild_backend_libtorch_plugin"],
            environment,
            "compile the LibTorch plugin",
            advance=lambda done, total: progress.advance(done, total, "steps"),
        )
        (plugin,) = Path(build).rglob(PLUGIN_FILE)
        shutil.copyfile(plugin, folder / PLUGIN_FILE)
