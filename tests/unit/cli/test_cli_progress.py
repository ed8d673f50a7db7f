import io
import re

import pytest

from edgebuild.cli import progress as progress_module
from edgebuild.cli.progress import BarProgress, PlainProgress, show_progress
from edgebuild.report import SilentProgress

LONG = (
    "a detail that is much longer than any terminal that one would want to build a model in, and then some more of it"
)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_live_line_never_needs_a_second_one(columns: int) -> None:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=io.StringIO(), width=columns, force_terminal=True)
    bars = BarProgress(Progress(console=console))
    bars.stage("export", LONG)
    bars.advance(3 * 2**30, 5 * 2**30, "bytes")
    (task,) = bars._display.tasks
    used = progress_module._COUNTED_WIDTH + len(task.description)
    assert used <= max(columns, progress_module._COUNTED_WIDTH + 8)
    assert task.fields["counter"] == "3.0 GiB of 5.0 GiB"
    assert task.description.endswith("...")


def test_bars_leave_a_line_a_stage_and_keep_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with show_progress(silent=False, verbose=False) as bars:
        assert isinstance(bars, BarProgress)
        bars.advance(1, 2, "runs")  # before any stage: nothing to show
        bars.stage("export", "loading")
        bars.stage("export", "torch.export")
        bars.note("x is float32[1,3] [bold]")
        bars.stage("prove")
        bars.advance(1, 0, "runs")
    text = plain(stream.getvalue())
    assert "note: x is float32[1,3] [bold]" in text
    assert re.search(r"\+ export +torch\.export", text)
    assert re.search(r"\+ prove", text)
    assert "+ export      loading" not in text  # one stage, whatever its steps


@pytest.mark.parametrize("no_color", ["", "1"])
def test_without_colour_nothing_is_bold_or_dim(monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    with show_progress(silent=False, verbose=False) as bars:
        bars.stage("export", "torch.export")
        bars.note("a note")
        bars.stage("prove")
    assert "export" in stream.getvalue()
    assert bool(re.search(r"\x1b\[[0-9;]*m", stream.getvalue())) == (not no_color)


def test_a_stage_that_failed_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")

    def build() -> None:
        with show_progress(silent=False, verbose=False) as bars:
            bars.stage("export", "torch.export")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert re.search(r"x export +torch\.export", plain(stream.getvalue()))


def test_dumb_terminals_files_and_json_get_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with show_progress(silent=False, verbose=False) as shown:
        assert isinstance(shown, PlainProgress)
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "dumb")
    with show_progress(silent=False, verbose=False) as shown:
        assert isinstance(shown, PlainProgress)
    monkeypatch.setenv("TERM", "xterm")
    with show_progress(silent=True, verbose=False) as shown:
        assert isinstance(shown, SilentProgress)
        shown.note("nothing")
    assert stream.getvalue() == ""


def test_plain_progress_tells_times_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        lines = PlainProgress(verbose=verbose)
        lines.stage("export", "a")
        lines.stage("export", "b")
        lines.stage("prove")
        assert ("export took" in capsys.readouterr().err) is verbose


def test_a_log_hears_of_a_long_step_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = PlainProgress(verbose=False, clock=lambda: now[0])
    progress.advance(1, 70, "steps")  # before any stage: nothing to say
    progress.stage("runner", "x86_64-linux-gnu")
    for step in range(1, 71):
        now[0] += 2.0
        progress.advance(step, 70, "steps")
    assert capsys.readouterr().err.splitlines() == [
        "runner: x86_64-linux-gnu",
        "runner: 15 of 70 steps, 30 s so far",
        "runner: 30 of 70 steps, 60 s so far",
        "runner: 45 of 70 steps, 90 s so far",
        "runner: 60 of 70 steps, 120 s so far",
    ]
