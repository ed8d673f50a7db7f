"""``edgebuild runtime pack``: the engine libraries of a target, for thin bundles that share them."""

import shutil
from pathlib import Path

import click

from edgebuild.cli import output
from edgebuild.cli.options import TargetName, common
from edgebuild.errors import EdgebuildError, ResourceError, UsageError

SCHEMA = "edgebuild.runtime.pack/1"


@click.group(name="runtime")
def command() -> None:
    """Pack engine libraries for thin bundles."""


@command.command()
@click.option("--target", type=TargetName(), metavar="T", required=True, help="Board: a name, an alias, or a file.")
@click.option(
    "-o", "--output", "folder", metavar="DIR", type=click.Path(path_type=Path), required=True, help="Folder to fill."
)
@click.option("--backend", "backends", multiple=True, metavar="B", help="Only this backend's engine (repeatable).")
@common
def pack(target: str, folder: Path, backends: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Put a target's engine libraries into DIR, for EDGEBUILD_RUNTIME_PATH on the board."""
    from edgebuild.cache import Cache, file_sha256
    from edgebuild.native.engine_layout import engine_layout
    from edgebuild.native.engines import engine_pin, fetch_engine
    from edgebuild.targets import load_target

    spec = load_target(target)
    chosen = [spec.backend(name) for name in backends] or [b for b in spec.runtime if not b.on_demand]
    engines: list[dict[str, object]] = []
    skipped: list[str] = []
    if folder.exists() and not folder.is_dir():
        msg = f"--output: {folder} is no folder"
        raise UsageError(msg)
    for backend in chosen:
        try:
            files = fetch_engine(engine_pin(backend.name, backend.version, spec.soc.arch), Cache.default())
        except EdgebuildError as error:
            # What the board's own system brings (TensorRT) is not ours to pack; but never end with nothing.
            if backends or len(chosen) == 1:
                raise
            skipped.append(f"{backend.name} {backend.version}: {error.message}")
            continue
        needed = engine_layout(files, spec.os).needed
        library = folder / files.pin.soname
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _copy(files.library, library)
            for path in needed:
                _copy(path, folder / path.name)
            for name, licence in files.licences.items():
                (folder / "licenses").mkdir(exist_ok=True)
                _copy(licence, folder / "licenses" / name)
        except OSError as error:
            msg = f"{folder} can't be written: {error.strerror}"
            raise ResourceError(msg) from error
        engines.append(
            {
                "name": backend.name,
                "version": backend.version,
                "file": library.name,
                "size": library.stat().st_size,
                "sha256": file_sha256(library),
                "needed": [path.name for path in needed],
            }
        )
    if not engines:
        msg = f"no engine of {spec.name} can be packed: {'; '.join(skipped)}"
        raise UsageError(msg)
    if as_json:
        output.print_result(
            SCHEMA, {"target": spec.name, "folder": str(folder), "engines": engines, "skipped": skipped}
        )
        return
    rows = [(f"{e['name']} {e['version']}", str(e["file"]), output.size_text(int(str(e["size"])))) for e in engines]
    for line in output.table(("ENGINE", "FILE", "SIZE"), rows, right=(2,)):
        output.echo(line)
    for text in skipped:
        output.echo(f"  not packed: {text}")
    output.echo()
    output.echo(f"  Copy {folder} to the board, and there: export EDGEBUILD_RUNTIME_PATH=/path/to/{folder.name}")


def _copy(source: Path, target: Path) -> None:
    """Copies so that a reader sees the old file or the new one."""
    temporary = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
