"""Cross-compiles edgerun for a target; cached by the content of the sources, so a second model compiles nothing."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgebuild.cache import Cache, content_key
from edgebuild.errors import ToolError
from edgebuild.native.elf_check import NativeFile, check_native_files
from edgebuild.native.prebuilt import find_prebuilt, runner_settings
from edgebuild.native.process import run_tool
from edgebuild.native.sources import NativeSources, find_sources
from edgebuild.native.toolchain import CMakeToolchain, CrossTools, choose_toolchain, find_cross_tools, find_zig
from edgebuild.report import Progress
from edgebuild.targets import TargetSpec

_PASSED_ON = ("PATH", "HOME", "TMPDIR")


def build_runner(target: TargetSpec, cache: Cache, progress: Progress) -> Path:
    """The stripped edgerun for a target's triple, glibc and CPU: from the wheel, from the cache, or compiled now.

    Raises:
        ToolError: A tool is missing, there is no toolchain file for the triple, or the compiler failed.
        IncompatibleError: The compiled program does not fit the target.
    """
    sources = find_sources()
    digest = content_key(sources.digest())
    ready = find_prebuilt(sources, digest, target)
    if ready is not None:
        return ready
    toolchain = choose_toolchain(target, sources.root)
    key = content_key("edgerun", digest, toolchain.identity, runner_settings(target))

    def make(folder: Path) -> None:
        library = " and zig's C++ library, before the first step" if toolchain.identity[0] == "zig" else ""
        progress.note(f"compiling the runner for {target.toolchain.triple}{library} (once; it takes some minutes)")
        compile_native(target, sources, cache, folder, progress)

    return cache.get_or_make("native", key, make) / "edgerun"


def check_toolchain(target: TargetSpec) -> None:
    """Finds out before a long export whether there is a compiler for the target, or a runner that needs none. Raises as build_runner."""
    sources = find_sources()
    if find_prebuilt(sources, content_key(sources.digest()), target) is None:
        choose_toolchain(target, sources.root)


def runner_licences() -> dict[str, Path]:
    """Licence texts of what is compiled into the runner, by file name."""
    sources = find_sources()
    texts = {p.name: p for p in sorted((sources.third_party / "licenses").glob("*.txt")) if "doctest" not in p.name}
    libcxx = libcxx_licence()
    if libcxx is None and sources.prebuilt is not None:
        libcxx = sources.prebuilt / "libcxx.txt"
    if libcxx is not None and libcxx.is_file():
        texts["libcxx.txt"] = libcxx
    return texts


def libcxx_licence() -> Path | None:
    """The licence of the C++ library that zig compiles into a runner; None: zig is not here."""
    try:
        return find_zig()[0].parent / "lib" / "libcxx" / "LICENSE.TXT"
    except ToolError:
        return None


def compile_native(
    target: TargetSpec,
    sources: NativeSources,
    cache: Cache,
    folder: Path,
    progress: Progress,
    *,
    cmake_target: str = "edgerun",
    product: str = "edgerun",
    bundle_path: str = "bin/edgerun",
    definitions: Sequence[str] = (),
) -> None:
    """Compiles one program or plugin for a target, checks that it fits and leaves it in ``folder``.

    Args:
        target: The board.
        sources: What is compiled.
        cache: Where zig keeps its own.
        folder: Gets the product, stripped.
        progress: Hears the compiler's steps.
        cmake_target: The target of the sources' CMake project.
        product: File name of what it makes.
        bundle_path: Where it lies in a bundle.
        definitions: Further ``-D`` arguments of CMake.

    Raises:
        ToolError: A tool is missing or failed.
        IncompatibleError: What was compiled does not fit the target.
    """
    toolchain, tools = choose_toolchain(target, sources.root), find_cross_tools()
    zig_cache = cache.root / "zig"
    used = zig_cache.is_dir()
    try:
        _compile(
            target,
            sources,
            toolchain,
            tools,
            zig_cache,
            folder,
            progress,
            cmake_target,
            product,
            bundle_path,
            definitions,
        )
    except ToolError as error:
        if not used or toolchain.identity[0] != "zig":
            raise
        # Nothing but zig itself can tell whether what it kept is sound.
        empty = "if zig's own cache was damaged, `edgebuild cache clean zig` empties it"
        raise ToolError(error.message, hint=f"{error.hint}; {empty}" if error.hint else empty) from error


def _compile(
    target: TargetSpec,
    sources: NativeSources,
    toolchain: CMakeToolchain,
    tools: CrossTools,
    zig_cache: Path,
    folder: Path,
    progress: Progress,
    cmake_target: str,
    product: str,
    bundle_path: str,
    definitions: Sequence[str],
) -> None:
    # Nothing else of the user's environment: compiler flags, launchers and search paths in it would change the program.
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "ZIG_GLOBAL_CACHE_DIR": str(zig_cache / "global"),
        "ZIG_LOCAL_CACHE_DIR": str(zig_cache / "local"),
        "LC_ALL": "C",
    }
    with tempfile.TemporaryDirectory(prefix="edgebuild-native-") as build:
        configure = [
            str(tools.cmake),
            *("-S", str(sources.root), "-B", build, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tools.ninja}",
            f"-DCMAKE_TOOLCHAIN_FILE={toolchain.file}",
            *(f"-D{name}={value}" for name, value in toolchain.variables.items()),
            f"-DEDGEBUILD_THIRD_PARTY_DIR={sources.third_party}",
            "-DCMAKE_BUILD_TYPE=Release",
            # A source file's time is mostly the C++ library's headers: six files at once take half of what they take alone.
            "-DCMAKE_UNITY_BUILD=ON",
            "-DCMAKE_UNITY_BUILD_BATCH_SIZE=6",
            # A library's files need not wait for the libraries that it is linked with: the longest file starts early.
            "-DCMAKE_OPTIMIZE_DEPENDENCIES=ON",
            "-DCMAKE_EXE_LINKER_FLAGS_RELEASE=-s",
            "-DEDGEBUILD_LIBRARY=OFF",
            "-DEDGEBUILD_PYTHON=OFF",
            "-DEDGEBUILD_TESTS=OFF",
            "-DCMAKE_MODULE_LINKER_FLAGS_RELEASE=-s",
            *definitions,
        ]
        what = "runner" if product == "edgerun" else product
        run_tool(configure, environment, f"configure the {what}")
        run_tool(
            [str(tools.cmake), "--build", build, "--target", cmake_target],
            environment,
            f"compile the {what}",
            advance=lambda done, total: progress.advance(done, total, "steps"),
        )
        (program,) = [p for p in Path(build).rglob(product) if p.is_file()]
        check_native_files([NativeFile(path=bundle_path, source=program)], target)
        shutil.copyfile(program, folder / product)
        (folder / product).chmod(0o755)
