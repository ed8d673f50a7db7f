"""How a build shows that it goes on: bars on a terminal, plain lines elsewhere, nothing with ``--json``. All on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgebuild.cli import output
from edgebuild.report import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID
    from rich.progress_bar import ProgressBar

_NAME_WIDTH = 10
_BAR_WIDTH = 16
_SIGN_OF_LIFE_S = 30.0
# Columns of the live line beside the detail: spinner, name, time and the gaps; and once there are counts, bar and counter.
_FIXED_WIDTH = 1 + _NAME_WIDTH + 7 + 6
_COUNTED_WIDTH = _FIXED_WIDTH + _BAR_WIDTH + 22


@contextmanager
def show_progress(*, silent: bool, verbose: bool) -> Iterator[Progress]:
    """The progress that fits stderr; what it drew is finished when the block ends, also by an exception."""
    if silent:
        yield SilentProgress()
        return
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        try:
            import rich.progress  # noqa: F401  # comes with edgebuild[build]
        except ImportError:
            pass
        else:
            with _bars() as progress:
                yield progress
            return
    yield PlainProgress(verbose=verbose)


def counter(done: int, total: int, unit: str) -> str:
    """How far it is: "12 of 70 steps", "1.2 MiB of 28.0 MiB"; without the total where it is not known."""
    if unit == "bytes":
        return output.size_text(done) + (f" of {output.size_text(total)}" if total else "")
    return f"{done} of {total} {unit}" if total else f"{done} {unit}"


class PlainProgress:
    """One line when a stage begins; with ``verbose`` how long the one before took."""

    def __init__(self, *, verbose: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._verbose = verbose
        self._clock = clock
        self._last: tuple[str, float] | None = None
        self._said = clock()

    def stage(self, name: str, detail: str = "") -> None:
        now = self._said = self._clock()
        if self._last is None or self._last[0] != name:
            if self._verbose and self._last is not None:
                output.echo(f"  {self._last[0]} took {now - self._last[1]:.1f} s", err=True)
            self._last = (name, now)
        output.echo(f"{name}: {detail}" if detail else name, err=True)

    def advance(self, done: int, total: int, unit: str) -> None:
        """A line each half minute: a log wants no counters, but whoever reads it wants to know that it goes on."""
        now = self._clock()
        if self._last is None or now - self._said < _SIGN_OF_LIFE_S:
            return
        self._said = now
        output.echo(f"{self._last[0]}: {counter(done, total, unit)}, {now - self._last[1]:.0f} s so far", err=True)

    def note(self, message: str) -> None:
        output.echo(f"note: {message}", err=True)


class BarProgress:
    """The running stage as one live line; the finished ones stay above it with their time."""

    def __init__(self, display: "RichProgress") -> None:
        self._display = display
        self._task: TaskID | None = None
        self._stage = ("", "")
        self._began = 0.0

    def stage(self, name: str, detail: str = "") -> None:
        if self._task is not None and self._stage[0] == name:  # the same stage goes on to its next step
            self._stage = (name, detail)
            self._display.update(
                self._task, description=self._fit(detail, _FIXED_WIDTH), completed=0, total=None, counter=""
            )
            return
        self.finish()
        self._stage = (name, detail)
        self._began = time.monotonic()
        self._task = self._display.add_task(
            self._fit(detail, _FIXED_WIDTH), total=None, name=f"{name:<{_NAME_WIDTH}}", counter=""
        )

    def advance(self, done: int, total: int, unit: str) -> None:
        if self._task is None:
            return
        self._display.update(
            self._task,
            completed=done,
            total=total or None,
            counter=counter(done, total, unit),
            description=self._fit(self._stage[1], _COUNTED_WIDTH),
        )

    def note(self, message: str) -> None:
        from rich.text import Text

        self._display.console.print(Text.assemble(("note: ", "cyan"), message))

    def _fit(self, detail: str, taken: int) -> str:
        """The detail cut so that the live line stays one line: a second one would be left behind on the screen."""
        room = max(8, self._display.console.width - taken)
        return detail if len(detail) <= room else f"{detail[: room - 3]}..."

    def finish(self, *, failed: bool = False) -> None:
        """Leaves a line for the stage that ran. ``failed``: it did not get to its end."""
        from rich.text import Text

        if self._task is None:
            return
        self._display.remove_task(self._task)
        self._task = None
        name, detail = self._stage
        mark = (" x ", "red") if failed else (" + ", "green")
        seconds = f"  {time.monotonic() - self._began:.1f} s"
        self._display.console.print(
            Text.assemble(mark, (f"{name:<{_NAME_WIDTH}}", "bold"), f" {detail}", (seconds, "dim")),
        )


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    class BarOnceKnown(BarColumn):
        """A bar as soon as there is something to fill it with; until then the spinner says enough."""

        def render(self, task: "Task") -> "ProgressBar":
            bar = super().render(task)
            if task.total is None:
                bar.width = 0
            return bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[name]}", style="bold", markup=False),
        TextColumn("{task.description}", markup=False),
        BarOnceKnown(bar_width=_BAR_WIDTH),
        TextColumn("{task.fields[counter]}", markup=False),
        TimeElapsedColumn(),
    )
    # Without colour there are no bold and dim letters either, as in the rest of what we write.
    coloured: dict[str, Any] = {} if output.use_color(sys.stderr) else {"color_system": None}
    console = Console(stderr=True, highlight=False, **coloured)
    with RichProgress(*columns, console=console, transient=True) as display:
        progress = BarProgress(display)
        try:
            yield progress
        except BaseException:
            progress.finish(failed=True)
            raise
        progress.finish()
