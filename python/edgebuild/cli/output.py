"""What every command writes with: errors, JSON, tables and sizes. Needs click and the standard library alone."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click

# Names of the exit codes; those that edgerun has too are its own.
_ERROR_CODES = {
    2: "usage error",
    3: "corrupt bundle",
    4: "invalid argument",
    5: "incompatible",
    6: "gate failed",
    7: "device unreachable",
    8: "out of resources",
    9: "model unusable",
    10: "environment",
    11: "deadline exceeded",
    130: "cancelled",
}


def prepare_streams() -> None:
    """Makes a character that the terminal can't show an escape instead of a crash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Callback of ``--version``."""
    if value and not context.resilient_parsing:
        from edgebuild import __version__

        click.echo(f"edgebuild {__version__}")
        context.exit()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, or None."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def use_color(stream: Any = None) -> bool:
    """Whether to colour what goes to ``stream`` (stdout): NO_COLOR, FORCE_COLOR, else if it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    stream = sys.stdout if stream is None else stream
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def style(text: str, *, err: bool = False, **how: Any) -> str:
    """Text with colour, if its stream gets colour."""
    return click.style(text, **how) if use_color(sys.stderr if err else sys.stdout) else text


def echo(text: str = "", *, err: bool = False) -> None:
    """Writes a line; styles are kept as ``style`` decided."""
    click.echo(text, err=err, color=True)


def error(message: str, hint: str | None) -> None:
    """The line that ends a failed command, on stderr."""
    echo(f"{style('edgebuild: error:', err=True, fg='red', bold=True)} {message}", err=True)
    if hint:
        echo(f"{style('hint:', err=True, fg='cyan')} {hint}", err=True)


def error_object(command: str, message: str, hint: str | None, code: int) -> dict[str, Any]:
    """The one JSON object of a failed command; ``command`` as in "build"."""
    name = _ERROR_CODES.get(code, "internal error")
    return {
        "schema": f"edgebuild.{command}/1",
        "error": {"code": name, "message": message, "hint": hint},
        "exit_code": code,
    }


def print_result(schema: str, data: Mapping[str, Any]) -> None:
    """The one JSON object of a command that worked."""
    print_json({"schema": schema, **data, "exit_code": 0})


def print_json(data: Mapping[str, Any]) -> None:
    """The one JSON object of a command, on one line of stdout. NaN and infinities become null: JSON has none."""
    click.echo(json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def width() -> int | None:
    """Columns to write in; None: stdout is no terminal, lines are never broken."""
    if not sys.stdout.isatty():
        return None
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def size_text(size: int) -> str:
    """Bytes for people: "512 B", "1.5 KiB", "29.4 MiB"."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 4)
    return f"{size / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def milliseconds(value: float) -> str:
    """A latency for people, three significant digits: "0.0412 ms", "3.07 ms", "128 ms"."""
    if value >= 100:
        return f"{value:.0f} ms"
    return f"{value:.3g} ms" if value < 1 else f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms"


def wrap(text: str, first: str, rest: str, columns: int | None) -> list[str]:
    """``text`` in lines of at most ``columns``, the first after ``first``, the others after ``rest``. Words stay whole."""
    lines, line = [], first
    empty = True
    for word in text.split():
        if not empty and columns is not None and len(line) + 1 + len(word) > columns:
            lines.append(line)
            line, empty = rest, True
        line += word if empty else f" {word}"
        empty = False
    return [*lines, line]


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int] = (), indent: int = 2
) -> list[str]:
    """A table without lines: columns two spaces apart; the last one is wrapped to the terminal.

    Where the others leave it no room, each row becomes a paragraph: the first cell, then the rest as "name value, name value".

    Args:
        header: Column names; empty strings for none.
        rows: Cells as plain text.
        right: Columns that are aligned to the right.
        indent: Spaces before each line.
    """
    aligned = set(right)
    last = len(header) - 1
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    start = indent + sum(widths[:-1]) + 2 * last
    columns = width()
    if columns is not None and columns - start < min(16, widths[-1]):
        return _paragraphs(header, rows, indent, columns)
    lines = []
    for number, row in enumerate(cells):
        if number == 0 and not any(header):
            continue
        front = " " * indent
        for i in range(last):
            cell = row[i].rjust(widths[i]) if i in aligned else row[i].ljust(widths[i])
            front += cell + "  "
        end = row[last].rjust(widths[last]) if last in aligned else row[last]
        wrapped = [front + end] if last in aligned else wrap(end, front, " " * start, columns)
        lines += [style(line.rstrip(), bold=True) if number == 0 else line.rstrip() for line in wrapped]
    return lines


def _paragraphs(header: Sequence[str], rows: Sequence[Sequence[str]], indent: int, columns: int) -> list[str]:
    lines = []
    for row in rows:
        lines.append(" " * indent + style(row[0], bold=True))
        cells = [
            f"{name} {cell}".strip() for name, cell in zip(header[1:], row[1:], strict=True) if cell not in ("", "-")
        ]
        lines += wrap(", ".join(cells), " " * (indent + 2), " " * (indent + 2), columns)
    return lines


def heading(text: str) -> str:
    """A section's title."""
    return style(text, bold=True)
