"""Cross-compiles edgerun for a target; cached by the content of the sources, so a second model compiles nothing."""

import os
import shutil
import tempfile
from pathlib import Path

from edgebuild.cache import Cache, content_key
from edgebuild.errors import ToolError
from edgebuild.native.elf_check import NativeFile, check_native_files
from edgebuild.native.process import run_tool
from edgebuild.native.sources import NativeSources, find_sources
from edgebuild.native.toolchain import CrossTools, find_cross_tools
from edgebuild.report import Progress
from edgebuild.targets import TargetSpec

_PASSED_ON = ("PATH", "HOME", "TMPDIR")


def build_runner(target: TargetSpec, cache: Cache, progress: Progress) -> Path:
    """The stripped edgerun for a target's triple, glibc and CPU, from the cache or compiled now.

    Raises:
        ToolError: A tool is missing, there is no toolchain file for the triple, or the compiler failed.
        IncompatibleError: The compiled program does not fit the target.
    """
    sources = find_sources()
    key = content_key("edgerun", sources.digest(), _tools_version(), _settings(target))

    def make(folder: Path) -> None:
        progress.note(f"compiling the runner for {target.toolchain.triple} (once; the first time takes some minutes)")
        _compile(target, sources, find_cross_tools(), cache.root / "zig", folder, progress)

    return cache.get_or_make("native", key, make) / "edgerun"


def runner_licences() -> dict[str, Path]:
    """Licence texts of what is compiled into the runner, by file name."""
    from edgebuild.native.toolchain import find_zig

    sources = find_sources()
    texts = {p.name: p for p in sorted((sources.third_party / "licenses").glob("*.txt")) if "doctest" not in p.name}
    libcxx = find_zig()[0].parent / "lib" / "libcxx" / "LICENSE.TXT"
    if libcxx.is_file():
        texts["libcxx.txt"] = libcxx
    return texts


def _tools_version() -> str:
    from edgebuild.native.toolchain import find_zig

    return find_zig()[1]


def _settings(target: TargetSpec) -> dict[str, str]:
    return {
        "triple": target.toolchain.triple,
        "glibc": target.os.glibc,
        "cpu_flags": " ".join(target.toolchain.cpu_flags),
    }


def _compile(
    target: TargetSpec, sources: NativeSources, tools: CrossTools, zig_cache: Path, folder: Path, progress: Progress
) -> None:
    settings = _settings(target)
    toolchain = sources.root / "toolchains" / "zig" / f"{settings['triple']}.cmake"
    if not toolchain.is_file():
        known = sorted(p.stem for p in toolchain.parent.glob("*-*.cmake"))
        msg = f"there is no toolchain file for the triple {settings['triple']!r}; known: {', '.join(known)}"
        raise ToolError(msg, hint="write one in toolchains/zig/, after the others")
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
            f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
            f"-DEDGEBUILD_ZIG={tools.zig}",
            f"-DEDGEBUILD_GLIBC={settings['glibc']}",
            f"-DEDGEBUILD_CPU_FLAGS={settings['cpu_flags']}",
            f"-DEDGEBUILD_THIRD_PARTY_DIR={sources.third_party}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_EXE_LINKER_FLAGS=-s",
            "-DEDGEBUILD_LIBRARY=OFF",
            "-DEDGEBUILD_PYTHON=OFF",
            "-DEDGEBUILD_TESTS=OFF",
        ]
        run_tool(configure, environment, "configure the runner")
        run_tool(
            [str(tools.cmake), "--build", build, "--target", "edgerun"],
            environment,
            "compile the runner",
            advance=lambda done, total: progress.advance(done, total, "steps"),
        )
        (program,) = [p for p in Path(build).rglob("edgerun") if p.is_file()]
        check_native_files([NativeFile(path="bin/edgerun", source=program)], target)
        shutil.copyfile(program, folder / "edgerun")
        (folder / "edgerun").chmod(0o755)
