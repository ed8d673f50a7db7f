"""Compiling the runner: one program for equal sources and settings, whatever the user's environment."""

import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from elf_craft import craft_elf

from edgebuild.cache import Cache, content_key
from edgebuild.errors import EdgebuildError, IncompatibleError, ResourceError, ToolError
from edgebuild.native import runner, toolchain
from edgebuild.native.prebuilt import write_prebuilt
from edgebuild.native.runner import build_runner, runner_licences
from edgebuild.native.sources import NativeSources, find_sources
from edgebuild.native.toolchain import choose_toolchain, find_cross_tools
from edgebuild.report import SilentProgress
from edgebuild.targets import TargetSpec, load_target

CMAKE = """#!/bin/sh
env > "{log}"
case "$1" in
--build) cat "{program}" > "$2/edgerun" ;;
esac
exit {code}
"""


@pytest.fixture(autouse=True)
def kept_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log of a compiler that failed stays for the user: here among the test's own files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NativeSources:
    """A small tree of sources in place of the real one."""
    root = tmp_path / "sources"
    for name in ("cpp/a.cpp", "cpp/tests/t.cpp", "cmake/m.cmake", "toolchains/zig/x86_64-linux-gnu.cmake"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name, encoding="utf-8")
    (root / "CMakeLists.txt").write_text("", encoding="utf-8")
    found = NativeSources(root=root, third_party=root / "third_party")
    monkeypatch.setattr(runner, "find_sources", lambda: found)
    return found


def fake_cmake(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    code: int = 0,
    says: str = "",
    wants: Sequence[tuple[str, str]] = (("GLIBC_2.28", "fcntl64"),),
    arch: str = "x86_64",
) -> Path:
    """Replaces cmake by a script that logs its environment and "compiles" a crafted program; returns the log."""
    program, log, compiled = tmp_path / "cmake", tmp_path / "environment", tmp_path / "compiled"
    compiled.write_bytes(craft_elf(arch=arch, needed=["libc.so.6"], wants={"libc.so.6": wants}))
    program.write_text(CMAKE.format(log=log, code=code, program=compiled) + f"\necho '{says}'\n", encoding="utf-8")
    if says:
        program.write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    tools = replace(find_cross_tools(), cmake=program)
    monkeypatch.setattr(runner, "find_cross_tools", lambda: tools)
    return log


@pytest.fixture(scope="module")
def target() -> TargetSpec:
    return load_target("x86-64")


def test_equal_sources_compile_once_and_any_change_compiles_anew(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_cmake(tmp_path, monkeypatch, wants=[("GLIBC_2.17", "clock_gettime")])
    cache = Cache(tmp_path / "cache")

    def compiled(spec: TargetSpec = target) -> bool:
        log.unlink(missing_ok=True)
        program = build_runner(spec, cache, SilentProgress())
        assert program.read_bytes().startswith(b"\x7fELF")
        assert os.access(program, os.X_OK)
        return log.exists()

    assert compiled()
    assert not compiled()
    (sources.root / "cpp/tests/t.cpp").write_text("a test is no part of the runner", encoding="utf-8")
    assert not compiled()
    for name in ("cpp/a.cpp", "cmake/m.cmake", "toolchains/zig/x86_64-linux-gnu.cmake", "cpp/new.hpp"):
        (sources.root / name).write_text("changed", encoding="utf-8")
        assert compiled(), name
    assert compiled(replace(target, toolchain=replace(target.toolchain, cpu_flags=("-mcpu=x86_64_v3",))))
    assert not compiled(replace(target, os=replace(target.os, glibc="2.31"))), "an older one serves it too"
    assert compiled(replace(target, os=replace(target.os, glibc="2.27")))


def test_the_users_flags_do_not_reach_the_compiler(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = ("CXXFLAGS", "CPPFLAGS", "CMAKE_TOOLCHAIN_FILE", "CMAKE_CXX_COMPILER_LAUNCHER", "C_INCLUDE_PATH", "LANG")
    for name in strange:
        monkeypatch.setenv(name, "surprise")
    log = fake_cmake(tmp_path, monkeypatch)
    build_runner(target, Cache(tmp_path / "cache"), SilentProgress())
    assert "surprise" not in log.read_text(encoding="utf-8")


def test_the_compilers_first_error_is_said_and_the_log_kept(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cmake(tmp_path, monkeypatch, code=1, says="a.cpp:1: error: no semicolon")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ToolError, match=r"could not configure the runner: a\.cpp:1: error: no semicolon") as caught:
        build_runner(target, cache, SilentProgress())
    log = Path(str(caught.value.hint).removeprefix("the whole log is in "))
    assert "no semicolon" in log.read_text(encoding="utf-8")
    assert [p for p in (cache.root / "native").iterdir() if p.is_dir()] == []


def test_a_triple_without_a_toolchain_file_names_those_that_have_one(
    sources: NativeSources, target: TargetSpec, tmp_path: Path
) -> None:
    strange = replace(target, toolchain=replace(target.toolchain, triple="vax-linux-gnu"))
    with pytest.raises(ToolError, match=r"'vax-linux-gnu'; known: x86_64-linux-gnu"):
        build_runner(strange, Cache(tmp_path / "cache"), SilentProgress())


def with_toolchain(target: TargetSpec, **changes: str | None) -> TargetSpec:
    return replace(target, toolchain=replace(target.toolchain, **changes))  # type: ignore[arg-type]


def test_another_compiler_gets_its_own_file_and_its_variables(
    target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x86_64-linux-gnu-g++", "clang++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    root = find_sources().root
    for family in ("gnu", "clang"):
        chosen = choose_toolchain(with_toolchain(target, family=family, sysroot=str(tmp_path)), root)
        assert chosen.file == root / "toolchains" / family / "toolchain.cmake"
        assert chosen.file.is_file()
        assert chosen.variables["EDGEBUILD_SYSROOT"] == str(tmp_path)
        assert chosen.variables["EDGEBUILD_TRIPLE"] == "x86_64-linux-gnu"
    own = tmp_path / "own.cmake"
    own.write_text("set(CMAKE_SYSTEM_NAME Linux)\n")
    first = choose_toolchain(with_toolchain(target, file=str(own)), root)
    assert first.file == own
    own.write_text("set(CMAKE_SYSTEM_NAME Linux) # changed\n")
    assert choose_toolchain(with_toolchain(target, file=str(own)), root).identity != first.identity


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "gnu"}, r"needs x86_64-linux-gnu-g\+\+, which is not on PATH"),
        ({"family": "clang"}, r"needs clang\+\+, which is not on PATH"),
        ({"family": "gnu", "sysroot": "/no/such/sysroot"}, r"is no folder: /no/such/sysroot"),
        ({"file": "/no/such/file.cmake"}, r"/no/such/file\.cmake can't be read"),
    ],
)
def test_a_compiler_that_is_not_there_is_named_with_what_to_do(
    changes: dict[str, str], said: str, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=said) as caught:
        build_runner(with_toolchain(target, **changes), Cache(tmp_path / "cache"), SilentProgress())
    assert caught.value.hint


def test_a_toolchain_file_that_cmake_refuses_is_one_line(target: TargetSpec, tmp_path: Path) -> None:
    bad = tmp_path / "bad.cmake"
    bad.write_text('message(FATAL_ERROR "no such board")\n')
    cache = Cache(tmp_path / "cache")
    with pytest.raises(ToolError, match="could not configure the runner") as caught:
        build_runner(with_toolchain(target, file=str(bad)), cache, SilentProgress())
    assert "\n" not in caught.value.message
    assert [p for p in (cache.root / "native").iterdir() if p.is_dir()] == []


def test_a_runner_that_came_with_the_wheel_serves_without_any_tool_as_long_as_it_fits(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF ready-made")
    folder = tmp_path / "prebuilt"
    digest = content_key(sources.digest())
    assert len(write_prebuilt(folder, digest, [(target, program), (target, program)], None)) == 1
    wheel = replace(sources, prebuilt=folder)
    monkeypatch.setattr(runner, "find_sources", lambda: wheel)

    def no_tool() -> None:
        msg = "a tool was asked for"
        raise ToolError(msg)

    for name in ("find_cross_tools", "find_zig"):
        monkeypatch.setattr(runner, name, no_tool)
    monkeypatch.setattr(toolchain, "find_zig", no_tool)
    cache = Cache(tmp_path / "cache")
    found = build_runner(target, cache, SilentProgress())
    assert found.read_bytes() == b"\x7fELF ready-made"
    assert os.access(found, os.X_OK)
    others = [
        replace(target, os=replace(target.os, glibc="2.27")),
        with_toolchain(target, cpu_flags=("-mcpu=x86_64_v3",)),  # type: ignore[arg-type]
    ]
    for other in others:
        with pytest.raises(ToolError, match="a tool was asked for"):
            build_runner(other, cache, SilentProgress())
    found.write_bytes(b"\x7fELF changed")
    with pytest.raises(ToolError, match="is damaged or gone"):
        build_runner(target, cache, SilentProgress())
    (sources.root / "cpp/a.cpp").write_text("changed")
    with pytest.raises(ToolError, match="a tool was asked for"):
        build_runner(target, cache, SilentProgress())


def test_the_real_sources_are_complete_and_every_licence_has_text() -> None:
    files = find_sources().digest()
    assert "CMakeLists.txt" in files
    assert any(name.startswith("cpp/apps/edgerun/") for name in files)
    # What no runner is compiled from must not make everybody's runners be compiled anew.
    others = (
        "cpp/tests/",
        "cpp/src/statistics/",
        "cpp/bindings/",
        "cpp/backends/libtorch/",
        "cmake/FindLibTorch.cmake",
    )
    assert not any(name.startswith(others) for name in files)
    assert all(path.stat().st_size > 100 for path in runner_licences().values())


def test_a_program_for_a_younger_glibc_is_refused_and_not_kept(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cmake(tmp_path, monkeypatch, wants=[("GLIBC_2.17", "read"), ("GLIBC_2.34", "dlsym")])
    cache = Cache(tmp_path / "cache")
    with pytest.raises(IncompatibleError, match=r"bin/edgerun can't run on x86-64: it needs dlsym@GLIBC_2\.34"):
        build_runner(target, cache, SilentProgress())
    assert [p for p in (cache.root / "native").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    ("zig", "kind", "said"),
    [
        ("echo 'm.cpp:3:1: error: no such header' >&2; exit 1", ToolError, r"m\.cpp:3:1: error: no such header"),
        ("exit 7", ToolError, "is not able to compile a simple test program"),
        ("kill -KILL $$", ToolError, "is not able to compile a simple test program"),
        ("kill -SEGV $$", ToolError, "is not able to compile a simple test program"),
        ("echo 'error: unable to write: NoSpaceLeft' >&2; exit 1", ResourceError, "no space left on the disk"),
    ],
)
def test_a_compiler_that_fails_is_one_line_and_the_next_build_compiles(
    zig: str, kind: type[EdgebuildError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real sources and CMake, and a zig that fails; then a CMake that works."""
    (tmp_path / "zig").write_text(f"#!/bin/sh\n{zig}\n")
    (tmp_path / "zig").chmod(0o755)
    monkeypatch.setattr(toolchain, "find_zig", lambda: (tmp_path / "zig", "0"))
    cache = Cache(tmp_path / "cache")
    board = load_target("raspberrypi4")
    with pytest.raises(kind, match=f"could not configure the runner: .*{said}") as caught:
        build_runner(board, cache, SilentProgress())
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 700
    assert caught.value.hint
    assert [p for p in (cache.root / "native").iterdir() if p.is_dir()] == []
    fake_cmake(tmp_path, monkeypatch, arch="aarch64")
    assert build_runner(board, cache, SilentProgress()).read_bytes().startswith(b"\x7fELF")
