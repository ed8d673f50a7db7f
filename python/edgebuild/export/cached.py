"""The export stage behind the cache: the same file, request and tools give the same export without importing torch."""

import mmap
import platform
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from edgebuild.cache import Cache, content_key, file_sha256
from edgebuild.errors import ModelError
from edgebuild.export.result import ExportedModel
from edgebuild.fingerprint import source_digest
from edgebuild.machine import this_machine
from edgebuild.model.request import ModelRequest
from edgebuild.report import Progress

_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
"""An entry ("location", name) of ONNX's external_data as protobuf writes it; names of over 127 bytes are not written by any exporter."""

_TOOLS = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "numpy")


def export_cached(
    request: ModelRequest,
    cache: Cache,
    progress: Progress,
    *,
    module: Any = None,
    deadline_s: float | None = None,
    export: Callable[[Path], ExportedModel],
) -> tuple[ExportedModel, bool]:
    """The exported model, from the cache or by calling ``export`` with a folder to fill.

    A model that is code (a factory, an object given from Python, a pickle that names the user's modules) has no hash and is
    always exported anew. The original's outputs and latency are those of this CPU, so the CPU is part of the key.

    Returns:
        The export, and whether it came from the cache.

    Raises:
        ModelError: A model or sample file can't be read.
    """
    if module is not None or request.factory is not None or request.trust:
        return _export_uncached(cache, export), False
    machine = this_machine()
    key = content_key(
        "export",
        {
            **request.to_json(),
            "path": _content(request.path),
            "samples": [_content(s) for s in request.samples],
            "data": None if request.data is None else [_listing(Path(request.data.path)), request.data.preprocess],
            "search_path": None,  # only a factory is looked up there
        },
        Path(request.path or "").stem,
        {name: metadata.version(name) for name in _TOOLS},
        [platform.python_version(), machine.cpu_name, list(machine.features)],
        source_digest("model", "export", *([] if request.data is None else ["data"])),
    )
    folder, cached = cache.find_or_make("export", key, lambda work: _fill(work, export))
    return ExportedModel.read(folder), cached


def _fill(folder: Path, export: Callable[[Path], ExportedModel]) -> None:
    export(folder)


def _export_uncached(cache: Cache, export: Callable[[Path], ExportedModel]) -> ExportedModel:
    """Exports anew. The result is kept under the hash of its content, so that building the same again leaves one entry, not two."""
    folder = cache.staging_folder()
    try:
        export(folder)
        # Times differ from run to run: the last ones that were measured are told, they do not tell two exports apart.
        fresh = ExportedModel.read(folder)
        timeless = replace(fresh, original_latency_ms=None)
        timeless.write()
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = [[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files]

        def move(work: Path) -> None:
            for path in folder.iterdir():
                path.rename(work / path.name)

        kept = cache.get_or_make("export", content_key("export-content", content), move)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(ExportedModel.read(kept), original_latency_ms=fresh.original_latency_ms)


def _listing(path: Path) -> list[list[Any]]:
    """What tells data from others without reading them, for they may be many: names, sizes, and what the file system knows them by.

    The time of change of the inode, unlike that of the content, is set by nobody: archives unpack data of one shape with equal names,
    sizes and times. What else lies in the folder, a bundle for instance, is none of it.
    """
    from edgebuild.data.files import is_data

    found = []
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            status = file.stat()
        except OSError:  # what opens it says it better
            continue
        if file == path or (is_data(file) and stat.S_ISREG(status.st_mode)):
            known = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino]
            found.append([file.relative_to(path).as_posix(), *known])
    return found


def _content(path: str | None) -> list[str]:
    """Hashes of a file, and of all files beside it that it might refer to (external weights of an ONNX model)."""
    if path is None:
        return []
    file = Path(path)
    try:
        if file.is_dir():
            return [
                f"{p.relative_to(file).as_posix()} {file_sha256(p)}" for p in sorted(file.rglob("*")) if p.is_file()
            ]
        digests = [file_sha256(file)]
    except FileNotFoundError:
        return []  # the model stage says it better
    except OSError as error:
        msg = f"{path} can't be read: {error.strerror}"
        raise ModelError(msg) from error
    return digests + [f"{name} {digest}" for name, digest in _external_data(file)]


def _external_data(file: Path) -> list[tuple[str, str]]:
    """Name and hash of the files that an ONNX model keeps its weights in; nothing for other files."""
    if file.stat().st_size == 0:
        return []
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] == b"PK":
            return []
        names = {data[m.end() : m.end() + m.group(1)[0]].decode("utf-8", "replace") for m in _LOCATION.finditer(data)}
    return [(name, file_sha256(file.parent / name)) for name in sorted(names) if (file.parent / name).is_file()]
