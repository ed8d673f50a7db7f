"""Running compilers: steps are told, failures explained, and nothing is left running."""

import os
import sys
import time
from pathlib import Path

import pytest

from edgebuild.errors import ResourceError, ToolError
from edgebuild.native import process
from edgebuild.native.process import run_tool


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_steps_of_ninja_are_told_in_order() -> None:
    heard: list[tuple[int, int]] = []
    script = "print('[1/3] a'); print('no step [9/9]'); print('[3/3] b')"
    run_tool(python(script), dict(os.environ), "compile", advance=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (3, 3)]


def test_a_failure_gives_the_first_error_line_and_keeps_the_log() -> None:
    script = "import sys; print('fine'); print('x.cpp:1: error: no'); print('error: more'); sys.exit(3)"
    with pytest.raises(ToolError, match=r"could not compile: x\.cpp:1: error: no") as caught:
        run_tool(python(script), dict(os.environ), "compile")
    log = Path(str(caught.value.hint).removeprefix("the whole log is in "))
    assert log.read_text(encoding="utf-8").splitlines() == ["fine", "x.cpp:1: error: no", "error: more"]
    log.unlink()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "it was killed by SIGKILL"),
        ("print('FAILED: a.o'); print('Killed'); exit(1)", "Killed"),
        (
            "print('CMake Error at a.cmake:1 (m):'); print('  No such\\n\\n  thing.\\nother'); exit(1)",
            r"a\.cmake:1 \(m\): No such thing\.",
        ),
        ("exit(4)", "exit code 4"),
    ],
)
def test_a_tool_that_says_nothing_of_an_error_is_explained_by_how_it_ended(script: str, said: str) -> None:
    with pytest.raises(ToolError, match=f"could not compile: .*{said} .the whole log") as caught:
        run_tool(python(script), dict(os.environ), "compile")
    Path(str(caught.value.hint).removeprefix("the whole log is in ")).unlink()


def test_a_full_disk_is_the_disk_s_fault_and_not_the_tool_s() -> None:
    with pytest.raises(ResourceError, match="could not compile: no space left"):
        run_tool(python("print('a.o: error: No space left on device'); exit(1)"), dict(os.environ), "compile")


def test_a_tool_that_does_not_start_is_named() -> None:
    with pytest.raises(ToolError, match="could not compile: /nowhere/zig: No such file"):
        run_tool(["/nowhere/zig"], {}, "compile")


def test_a_tool_that_hangs_is_killed_with_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "_TIME_LIMIT_S", 1.0)
    pid_file = tmp_path / "pid"
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=subprocess.DEVNULL)\n"
        f"open({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(ToolError, match="took longer than"):
        run_tool(python(script), dict(os.environ), "compile")
    child = int(pid_file.read_text(encoding="utf-8"))
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the tool's child still runs")
