"""A bundle's program while it runs: what it tells of its progress is heard at once, and nothing else of it is lost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgebuild.devices import child
from edgebuild.devices.child import run_child


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_what_is_told_is_heard_in_order_and_taken_out_of_stderr() -> None:
    heard: list[tuple[int, int]] = []
    script = (
        "import os, sys, time\n"
        "assert os.environ['EDGEBUILD_PROGRESS'] == '1'\n"
        "os.write(2, b'first\\nedgebuild-progress 1 3\\n'); time.sleep(0.3)\n"
        "os.write(2, b'edgebuild-prog'); time.sleep(0.3)\n"
        "os.write(2, b'ress 2 3\\nlast'); os.write(1, b'{}'); sys.exit(6)\n"
    )
    done = run_child(python(script), dict(os.environ), 60, lambda d, t: heard.append((d, t)), 9)
    assert (done.returncode, done.stdout, done.stderr) == (6, "{}", "first\nlast")
    assert list(dict.fromkeys(heard)) == [(1, 3), (2, 3)]


def test_nobody_listening_means_the_program_is_not_asked_to_tell() -> None:
    done = run_child(python("import os; print(os.environ.get('EDGEBUILD_PROGRESS'))"), dict(os.environ), None, None)
    assert done.stdout == "None\n"


def test_silence_is_heard_too_so_that_time_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_BEAT_S", 0.05)
    heard: list[tuple[int, int]] = []
    run_child(python("import time; time.sleep(0.5)"), dict(os.environ), 60, lambda d, t: heard.append((d, t)), 4)
    assert len(heard) >= 4
    assert set(heard) == {(0, 4)}


def test_much_output_on_both_streams_is_no_deadlock() -> None:
    script = "import os\nfor _ in range(50):\n    os.write(1, bytes(100_000)); os.write(2, b'x' * 100_000)\n"
    done = run_child(python(script), dict(os.environ), 60, lambda *_: None)
    assert (len(done.stdout), len(done.stderr)) == (5_000_000, 5_000_000)


@pytest.mark.parametrize("closes", [False, True])
def test_a_program_that_hangs_is_killed_at_its_limit(closes: bool, tmp_path: Path) -> None:
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    script += "os.close(1); os.close(2)\n" if closes else ""
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_child(python(script + "time.sleep(60)"), dict(os.environ), 1.0, lambda *_: None)
    assert caught.value.timeout == 1.0
    assert time.monotonic() - begin < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_listener_that_raises_leaves_no_process(tmp_path: Path) -> None:
    def hear(*_: int) -> None:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_child(python(script), dict(os.environ), 60, hear)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
