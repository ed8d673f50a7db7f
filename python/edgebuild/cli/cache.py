"""``edgebuild cache info`` and ``edgebuild cache clean``."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgebuild.cli import output
from edgebuild.cli.options import common

if TYPE_CHECKING:
    from edgebuild.cache import CacheSection

INFO_SCHEMA = "edgebuild.cache.info/1"
CLEAN_SCHEMA = "edgebuild.cache.clean/1"


@click.group(name="cache")
def command() -> None:
    """Show or clean the cache."""


@command.command()
@common
def info(as_json: bool, verbose: bool) -> None:
    """Show where the cache is and what lies in it."""
    from edgebuild.cache import Cache

    cache = Cache.default()
    sections = cache.info()
    total = sum(section.bytes for section in sections)
    if as_json:
        output.print_result(
            INFO_SCHEMA,
            {
                "path": str(cache.root),
                "bytes": total,
                "limit_bytes": cache.limit_bytes,
                "sections": [
                    {"name": s.name, "path": str(s.path), "entries": s.entries, "bytes": s.bytes} for s in sections
                ],
            },
        )
        return
    limit = f" of at most {output.size_text(cache.limit_bytes)}" if cache.limit_bytes is not None else ""
    output.echo(f"{output.heading(str(cache.root))}  {output.size_text(total)}{limit}")
    rows = [(s.name, str(s.entries), output.size_text(s.bytes), s.description) for s in sections]
    for line in output.table(("SECTION", "ENTRIES", "SIZE", "WHAT"), rows, right=(1, 2)):
        output.echo(line)


@command.command()
@click.argument("section", required=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common
def clean(section: str | None, yes: bool, as_json: bool, verbose: bool) -> None:
    """Remove one section of the cache, or everything that no running build or runner uses."""
    from edgebuild.cache import SECTIONS, Cache
    from edgebuild.cache_sweep import Cleaned
    from edgebuild.errors import UsageError

    if section is not None and section not in SECTIONS:
        near = output.nearest(section, SECTIONS)
        msg = f"the cache has no section {section!r}"
        raise UsageError(msg, hint=f"did you mean {near}?" if near else f"it has {', '.join(SECTIONS)}")
    cache = Cache.default()
    agreed = yes or not sys.stdin.isatty() or _confirmed(cache.info(), section, str(cache.root))
    cleaned = cache.clean(section) if agreed else Cleaned(freed_bytes=0, kept=0)
    if as_json:
        result = {"section": section, "freed_bytes": cleaned.freed_bytes, "kept_in_use": cleaned.kept}
        output.print_result(CLEAN_SCHEMA, result)
        return
    kept = f"; {cleaned.kept} in use and left" if cleaned.kept else ""
    output.echo(f"freed {output.size_text(cleaned.freed_bytes)}{kept}")


def _confirmed(sections: "Sequence[CacheSection]", only: str | None, root: str) -> bool:
    """Asks on the terminal; nothing to ask about counts as yes."""
    chosen = [s for s in sections if s.bytes and only in (None, s.name)]
    if not chosen:
        return True
    what = ", ".join(f"{s.description} ({output.size_text(s.bytes)})" for s in chosen)
    again = "; compiling a runner again takes minutes" if {"native", "zig"} & {s.name for s in chosen} else ""
    return click.confirm(f"Remove from {root}: {what}{again}. Go on?", err=True)
