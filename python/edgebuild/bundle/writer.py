"""Writing a bundle: the same description gives the same bytes, whatever the folder, the user, the clock or the locale."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgebuild.bundle import archive, atomic, values
from edgebuild.bundle.manifest import (
    FileEntry,
    Golden,
    GoldenNone,
    GoldenSequence,
    GoldenTensor,
    GoldenValue,
    Manifest,
    Target,
    Variant,
)
from edgebuild.bundle.paths import MANIFEST, MANIFEST_HASH, is_segment
from edgebuild.bundle.reader import Bundle, GoldenArrays
from edgebuild.errors import BundleError, InternalError, UsageError
from edgebuild.model.signature import ContainerType, Signature, ValueSpec, ValueType

_CHUNK = 1 << 20
_MANIFEST_FILES = (MANIFEST, MANIFEST_HASH)


@dataclass(frozen=True, kw_only=True)
class BundleFile:
    """A file to put into a bundle: its path there, its content (a file to read, or bytes), and whether it is executable."""

    path: str
    source: Path | bytes
    executable: bool = False


def write_bundle(
    output: str | Path,
    *,
    name: str,
    target: Target,
    signature: Signature,
    variants: Sequence[Variant],
    files: Sequence[BundleFile],
    goldens: Sequence[GoldenArrays] = (),
    producer: Mapping[str, str] | None = None,
    required_features: Sequence[str] = (),
    optional_features: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
    placement: Mapping[str, Any] | None = None,
    directory: bool = False,
) -> Bundle:
    """Write a bundle and open it.

    ``output`` appears whole or not at all: a build that fails or is killed leaves the old one.

    Args:
        output: The file (or, with ``directory``, the folder) to write.
        name: The model's stem, a segment (``paths.to_segment`` makes one); the archive's top folder is ``NAME.TARGET``.
        target: What the bundle is for.
        signature: The model's inputs and outputs.
        variants: In the order in which a runner tries them; their paths are those of ``files``.
        files: Everything but goldens and manifest: models, weights, runner, libraries, licences. Streamed, never held in memory.
        goldens: Values by the signature's names; ``edgebuild.bundle.values`` says how each dtype is given.
        producer: Versions of what made the bundle.
        required_features: Names that a reader must know to read this bundle.
        optional_features: Names that a reader may ignore.
        preprocessing: JSON for the manifest's key of this name; likewise ``quantization`` and ``placement``.
        quantization: See ``preprocessing``.
        placement: See ``preprocessing``.
        directory: Write the directory form.

    Raises:
        UsageError: A source file can't be read, ``output`` can't be written, or a value can't be stored.
        ResourceError: Disk full, or other resources ran out.
        InternalError: The description breaks a rule of the format; the message says which.
    """
    output = Path(output).absolute()
    if not is_segment(name):
        message = f"{name!r}: a bundle's name has 1 to 100 characters of A-Z a-z 0-9 . _ -"
        raise UsageError(message, hint="rename the model file")
    golden_files: dict[str, bytes] = {}
    stored = tuple(_store_golden(index, golden, signature, golden_files) for index, golden in enumerate(goldens))
    everything = [*files, *(BundleFile(path=path, source=data) for path, data in golden_files.items())]
    sources: dict[str, archive.Source] = {}
    for file in everything:
        if file.path in sources:
            message = f"{file.path}: two files of the bundle have this path"
            raise InternalError(message)
        sources[file.path] = _source(file)
    manifest = Manifest(
        name=name,
        target=target,
        signature=signature,
        variants=tuple(variants),
        files={path: source.entry for path, source in sources.items()},
        goldens=stored,
        producer=dict(producer or {}),
        required_features=tuple(required_features),
        optional_features=tuple(optional_features),
        preprocessing=preprocessing,
        quantization=quantization,
        placement=placement,
    )
    data = _checked_bytes(manifest)
    sources[MANIFEST] = _source(BundleFile(path=MANIFEST, source=data))
    sources[MANIFEST_HASH] = _source(BundleFile(path=MANIFEST_HASH, source=_hash_line(data)))
    if directory:
        _write_directory(output, sources)
    else:
        mtime = archive.source_date_epoch()
        with atomic.atomic_file(output) as stream:
            archive.write_archive(stream, manifest.top, sources.values(), mtime=mtime)
    return Bundle.open(output)


def pack_directory(folder: str | Path, output: str | Path) -> Bundle:
    """Write the archive form of a bundle directory, after checking every file of it."""
    bundle = Bundle.open(folder)
    bundle.verify_files()
    sources = [
        _source(BundleFile(path=path, source=bundle.directory() / path, executable=entry.executable))
        for path, entry in bundle.manifest.files.items()
    ]
    sources += [_source(BundleFile(path=path, source=bundle.directory() / path)) for path in _MANIFEST_FILES]
    with atomic.atomic_file(Path(output).absolute()) as stream:
        archive.write_archive(stream, bundle.manifest.top, sources, mtime=archive.source_date_epoch())
    return Bundle.open(output)


def _checked_bytes(manifest: Manifest) -> bytes:
    # What we write goes through the rules that we read by: a violation is ours, and must never reach a board.
    try:
        # A feature that this reader does not know is the caller's to know.
        plain = dataclasses.replace(manifest, required_features=())
        reread = Manifest.from_bytes(plain.to_bytes())
    except (BundleError, ValueError, TypeError) as error:
        message = f"the bundle would break its own format: {error}"
        raise InternalError(message) from error
    if reread.to_bytes() != plain.to_bytes():
        message = "the manifest does not survive a round trip through JSON"
        raise InternalError(message)
    return manifest.to_bytes()


def _hash_line(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def _write_directory(output: Path, sources: Mapping[str, archive.Source]) -> None:
    with atomic.atomic_folder(output) as folder:
        for path, source in sources.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            with source.open() as data, place.open("xb") as stream:
                archive.copy_checked(path, data, source.entry, stream)
            place.chmod(0o755 if source.entry.executable else 0o644)
        for parent in {folder, *(place for place in folder.rglob("*") if place.is_dir())}:
            parent.chmod(0o755)


def _source(file: BundleFile) -> archive.Source:
    content = file.source
    if isinstance(content, bytes):
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        opener = functools.partial(io.BytesIO, content)
        entry = FileEntry(size=size, sha256=digest, executable=file.executable)
        return archive.Source(path=file.path, entry=entry, open=opener)
    try:
        with content.open("rb") as stream:
            digest, size = _hash(stream)
    except OSError as error:
        raise atomic.from_os_error(error, f"{content}: can't be read") from error
    entry = FileEntry(size=size, sha256=digest, executable=file.executable)
    return archive.Source(path=file.path, entry=entry, open=functools.partial(_open_source, content))


def _open_source(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise atomic.from_os_error(error, f"{path}: can't be read") from error


def _hash(stream: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _store_golden(index: int, golden: GoldenArrays, signature: Signature, files: dict[str, bytes]) -> Golden:
    def store(kind: str, given: Mapping[str, Any], specs: Sequence[ValueSpec]) -> dict[str, GoldenValue]:
        if set(given) != {spec.name for spec in specs}:
            message = f"golden {index}: expected {kind}puts {[spec.name for spec in specs]}, got {sorted(given)}"
            raise InternalError(message)
        return {
            spec.name: _store_value(f"golden/{index}.{kind}.{place}", given[spec.name], spec.type, spec.name, files)
            for place, spec in enumerate(specs)
        }

    return Golden(
        inputs=store("in", golden.inputs, signature.inputs), outputs=store("out", golden.outputs, signature.outputs)
    )


def _store_value(stem: str, value: Any, kind: ValueType, name: str, files: dict[str, bytes]) -> GoldenValue:
    if isinstance(kind, ContainerType):
        if kind.kind == "optional":
            return GoldenNone() if value is None else _store_value(stem, value, kind.element, name, files)
        if not isinstance(value, list | tuple):
            message = f"{name}: expected a list for {kind}, got {type(value).__name__}"
            raise UsageError(message)
        return GoldenSequence(
            items=tuple(
                _store_value(f"{stem}.{place}", item, kind.element, f"{name}[{place}]", files)
                for place, item in enumerate(value)
            )
        )
    shape = _shape(value)
    fits = kind.shape is None or (
        len(shape) == len(kind.shape)
        and all(got == dim for got, dim in zip(shape, kind.shape, strict=True) if isinstance(dim, int))
    )
    if value is None or not fits:
        message = f"{name}: expected {kind}, got {'None' if value is None else list(shape)}"
        raise UsageError(message)
    path = f"{stem}.bin"
    files[path] = values.encode(value, kind.dtype, where=name)
    return GoldenTensor(dtype=kind.dtype, shape=shape, file=path)


def _shape(value: Any) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(size) for size in np.shape(value))
