"""Compiling the runner: one program for equal sources and settings, whatever the user's environment."""

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from elf_craft import craft_elf

from edgebuild.cache import Cache
from edgebuild.errors import IncompatibleError, ToolError
from edgebuild.native import runner
from edgebuild.native.runner import build_runner, runner_licences
from edgebuild.native.sources import NativeSources, find_sources
from edgebuild.native.toolchain import find_cross_tools
from edgebuild.report import SilentProgress
from edgebuild.targets import TargetSpec, load_target

CMAKE = """#!/bin/sh
env > "{log}"
case "$1" in
--build) cat "{program}" > "$2/edgerun" ;;
esac
exit {code}
"""


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
) -> Path:
    """Replaces cmake by a script that logs its environment and "compiles" a crafted program; returns the log."""
    program, log, compiled = tmp_path / "cmake", tmp_path / "environment", tmp_path / "compiled"
    compiled.write_bytes(craft_elf(arch="x86_64", needed=["libc.so.6"], wants={"libc.so.6": wants}))
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
    log = fake_cmake(tmp_path, monkeypatch)
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
    assert compiled(replace(target, os=replace(target.os, glibc="2.31")))


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
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(runner.tempfile, "tempdir", None)  # type: ignore[attr-defined]
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


def test_the_real_sources_are_complete_and_every_licence_has_text() -> None:
    files = find_sources().digest()
    assert "CMakeLists.txt" in files
    assert any(name.startswith("cpp/apps/edgerun/") for name in files)
    # What no runner is compiled from must not make everybody's runners be compiled anew.
    assert not any(name.startswith(("cpp/tests/", "cpp/src/statistics/", "cpp/bindings/")) for name in files)
    assert all(path.stat().st_size > 100 for path in runner_licences().values())


def test_a_program_for_a_younger_glibc_is_refused_and_not_kept(
    sources: NativeSources, target: TargetSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cmake(tmp_path, monkeypatch, wants=[("GLIBC_2.17", "read"), ("GLIBC_2.34", "dlsym")])
    cache = Cache(tmp_path / "cache")
    with pytest.raises(IncompatibleError, match=r"bin/edgerun can't run on x86-64: it needs dlsym@GLIBC_2\.34"):
        build_runner(target, cache, SilentProgress())
    assert [p for p in (cache.root / "native").iterdir() if p.is_dir()] == []
