"""``edgebuild cache info`` and ``edgebuild cache clean``."""

import click

from edgebuild.cli import output
from edgebuild.cli.options import common

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
@common
def clean(section: str | None, as_json: bool, verbose: bool) -> None:
    """Remove one section of the cache, or everything."""
    from edgebuild.cache import SECTIONS, Cache
    from edgebuild.errors import UsageError

    if section is not None and section not in SECTIONS:
        near = output.nearest(section, SECTIONS)
        msg = f"the cache has no section {section!r}"
        raise UsageError(msg, hint=f"did you mean {near}?" if near else f"it has {', '.join(SECTIONS)}")
    freed = Cache.default().clean(section)
    if as_json:
        output.print_result(CLEAN_SCHEMA, {"section": section, "freed_bytes": freed})
    else:
        output.echo(f"freed {output.size_text(freed)}")
