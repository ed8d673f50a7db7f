"""What AOTInductor is asked to compile, for which CPUs, and what becomes of its refusals; the compiled form itself is an integration test's."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgebuild.backends import inductor
from edgebuild.backends.inductor import CpuKind, compile_program, cpu_kind
from edgebuild.machine import machine_arch
from edgebuild.targets import TargetSpec, load_target

V3 = ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
V4 = ("avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")


def portable(glibcxx: str) -> TargetSpec:
    target = load_target("x86-64")
    return replace(target, soc=replace(target.soc, features=()), os=replace(target.os, glibcxx=glibcxx))


@pytest.mark.skipif(machine_arch() != "x86_64", reason="the levels are x86-64's")
@pytest.mark.parametrize(
    ("glibcxx", "features", "kind"),
    [
        ("3.4.25", V3 + V4, None),  # a board's libstdc++ is older than what is compiled needs
        ("3.4.30", V3 + V4, CpuKind(march="x86-64-v4", width=512, features=V3 + V4)),
        ("3.4.30", (*V3, "avx512f"), CpuKind(march="x86-64-v3", width=256, features=V3)),
        ("3.4.30", ("avx", "avx2"), None),
    ],
)
def test_a_portable_target_is_compiled_for_by_the_levels_that_this_machine_has(
    glibcxx: str, features: tuple[str, ...], kind: CpuKind | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor, "this_machine", lambda: SimpleNamespace(features=features))
    assert cpu_kind(portable(glibcxx)) == kind


def test_this_very_machine_is_compiled_for_as_it_is_and_a_foreign_board_not_at_all() -> None:
    assert cpu_kind(load_target("host")) == CpuKind(march="native", width=0, features=())
    foreign = "raspberrypi4" if machine_arch() == "x86_64" else "x86-64"
    assert cpu_kind(load_target(foreign)) is None


def test_flags_of_the_compiler_become_features_by_the_kernels_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "this_machine", lambda: SimpleNamespace(features=("avx512_vnni", "avx512f", "fma")))
    assert inductor._features("-mavx512f -mavx512vnni -mfma") == ({"avx512f", "avx512_vnni", "fma"}, "")
    assert inductor._features("-mfma -mnew-thing -mavx512f")[1] == "-mnew-thing"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (SimpleNamespace(returncode=0, stdout='noise\n{"refused": "output 0 is outside"}\n', stderr=""), "output 0 is"),
        (
            SimpleNamespace(returncode=1, stdout="", stderr="Traceback\n  line\nLoweringError: no\n\n"),
            "LoweringError: no",
        ),
        (SimpleNamespace(returncode=-9, stdout="", stderr=""), "exit -9"),
        (subprocess.TimeoutExpired("worker", 5), "longer than"),
    ],
)
def test_what_can_not_be_compiled_is_a_reason_and_no_error(
    answer: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(inductor.subprocess, "run", run)
    found = compile_program(
        tmp_path / "p.pt2", [], [], load_target("host"), Path("/usr/bin/c++"), tmp_path / "compiled.so"
    )
    assert isinstance(found, str)
    assert said in found
    assert "\n" not in found
    assert not (tmp_path / "compiled.so").exists()
