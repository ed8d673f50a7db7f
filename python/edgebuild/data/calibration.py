"""CalibrationData: batches that fit the signature, from whatever the user gave."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgebuild.cache import Cache
from edgebuild.data import objects
from edgebuild.data.arrays import HeldArray
from edgebuild.data.batches import Batch, BatchReader, cut
from edgebuild.data.files import open_files
from edgebuild.data.fit import Fitter
from edgebuild.data.images import image_opener, prepared
from edgebuild.data.preprocess import Preprocess, parse_preprocess
from edgebuild.data.random import random_batches
from edgebuild.data.records import Origin, Record, spooled
from edgebuild.data.spool import Spool
from edgebuild.errors import CalibrationError, UsageError
from edgebuild.model.signature import Signature

Array = NDArray[Any]

MAX_SAMPLES = 1024
"""Samples that are used if nothing else is said: an endless generator ends, and ranges settle long before."""

HINT_NO_DATA = (
    "give data: --calib FOLDER of .npy, .npz or images, --calib FILE.npz, or --calib module:callable; "
    "--calib random is there to try things out"
)


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """Calibration samples of one model, checked: every batch fits the signature, and every float is finite.

    Args:
        count: Samples.
        sha256: Hash of what ``batches`` yields: names, element types, shapes, bytes.
        random: Whether it was asked for by the name "random"; then nothing may be called accurate.
        description: E.g. ``512 samples from calib/*.npz``.
        notes: Sentences on what was converted, split or left out; the user should see them.
        origin: The source alone, e.g. ``calib/*.npz``.
    """

    count: int
    sha256: str
    random: bool
    description: str
    notes: tuple[str, ...] = ()
    origin: str
    _batches: tuple[tuple[Batch, bytes], ...] = field(repr=False)
    _reader: BatchReader = field(repr=False)
    _spool: Spool = field(repr=False)

    def __len__(self) -> int:
        """Batches."""
        return len(self._batches)

    @property
    def distinct(self) -> int:
        """Batches that differ from each other."""
        return len({digest for _, digest in self._batches})

    def batches(self) -> Iterator[Mapping[str, Array]]:
        """Yields ``{input name: array}``, the same ones in the same order each time; one batch lies in memory at a time.

        Raises:
            CalibrationError: A file was changed or removed since.
        """
        for batch, _ in self._batches:
            yield self._reader.read(batch)

    def split(self, held_out: float = 0.25) -> "tuple[CalibrationData, CalibrationData | None]":
        """Splits into a part to calibrate with and one to judge with, evenly interleaved, the same way each time.

        Args:
            held_out: Fraction of the batches that is kept apart, in (0, 1); at least one batch is on either side.

        Returns:
            Both parts; no second one if there is a single batch.
        """
        total = len(self._batches)
        if total < 2:
            return self, None
        kept = max(1, min(total - 1, round(total * held_out)))
        apart = {(2 * i + 1) * total // (2 * kept) for i in range(kept)}
        return (
            self._part([b for i, b in enumerate(self._batches) if i not in apart], "for calibration"),
            self._part([b for i, b in enumerate(self._batches) if i in apart], "held out"),
        )

    def _part(self, batches: Sequence[tuple[Batch, bytes]], purpose: str) -> "CalibrationData":
        count = sum(batch.samples for batch, _ in batches)
        return replace(
            self,
            count=count,
            sha256=_joined_hash(batches),
            description=f"{_samples(count)} from {self.origin}, {purpose}",
            _batches=tuple(batches),
        )

    def close(self) -> None:
        """Removes what was spooled to disk, of all parts of the split. Also happens when the process ends."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_calibration(
    source: str | Path | Iterable[Any] | None,
    signature: Signature,
    *,
    preprocess: Preprocess | str | None = None,
    seed: int = 0,
    search_path: Sequence[str] = (),
    max_samples: int = MAX_SAMPLES,
    cache: Cache | None = None,
    examples: Sequence[Mapping[str, Array]] = (),
    progress: Callable[[int], None] | None = None,
) -> CalibrationData:
    """Opens calibration data, reads it once, and checks all of it.

    Args:
        source: ``"random"``; the path of a folder or file (``.npy``, ``.npz``, images); ``"module:callable"``; from Python also
            a DataLoader, any iterable of mappings, tuples or arrays, a map-style data set, one array or mapping of
            stacked samples.
        signature: Of the model.
        preprocess: What makes images into inputs, or its text form; for folders of images it is needed.
        seed: Of ``random``.
        search_path: Where ``module`` is looked for first, e.g. the current folder.
        max_samples: Use no more: spread evenly over files, the first ones of what can only be read once.
        cache: Where data that can be read only once is kept meanwhile; None: the user's cache.
        examples: Inputs that the model takes; random integers stay within their range.
        progress: Hears how many samples were read.

    Raises:
        CalibrationError: There is no data, or some of it can't be used; names the tensor and the batch.
        UsageError: The source does not exist.
        ResourceError: There is no space to keep data that can be read only once.
    """
    if source is None:
        msg = "INT8 needs calibration data, and none was given"
        raise CalibrationError(msg, hint=HINT_NO_DATA)
    if max_samples < 1:
        msg = f"at least one calibration sample is needed, the limit is {max_samples}"
        raise CalibrationError(msg, hint="raise the limit")
    notes: dict[str, None] = {}
    fitter = Fitter(signature, lambda text: notes.setdefault(text))
    spool = Spool(cache)
    try:
        origin = open_origin(
            source,
            fitter,
            spool,
            preprocess,
            seed=seed,
            search_path=search_path,
            random_count=min(max_samples, 32),
            examples=examples,
        )
        reader = BatchReader(fitter)
        batches = _read_all(origin, fitter, reader, max_samples, progress)
    except BaseException:
        spool.close()
        raise
    if not batches:
        least = fitter.batch_limits[0] or 1
        msg = f"{origin.name}: an empty calibration set, expected at least {_samples(least)}"
        if notes:
            msg += f" ({'; '.join(notes)})"
        raise CalibrationError(msg, hint=HINT_NO_DATA)
    count = sum(batch.samples for batch, _ in batches)
    distinct = len({digest for _, digest in batches})
    if distinct < len(batches) and not origin.random:
        what = "samples" if count == len(batches) else "batches"
        fitter.note(f"{origin.name}: only {distinct} of {len(batches)} {what} differ from each other")
    return CalibrationData(
        count=count,
        sha256=_joined_hash(batches),
        random=origin.random,
        description=f"{_samples(count)} from {origin.name}",
        notes=tuple(notes),
        origin=origin.name,
        _batches=tuple(batches),
        _reader=reader,
        _spool=spool,
    )


def open_origin(
    source: Any,
    fitter: Fitter,
    spool: Spool,
    preprocess: Preprocess | str | None,
    *,
    seed: int = 0,
    search_path: Sequence[str] = (),
    random_count: int = 0,
    examples: Sequence[Mapping[str, Array]] = (),
) -> Origin:
    """The records of a source, unread.

    Args:
        source: As ``open_calibration`` takes it.
        fitter: Knows the signature.
        spool: Where what can be read only once is kept.
        preprocess: What makes images into inputs, or its text form.
        seed: Of ``random``.
        search_path: Where ``module`` is looked for first.
        random_count: Batches of ``random``.
        examples: Inputs that the model takes.

    Raises:
        CalibrationError: There is no data.
        UsageError: The source does not exist, or ``preprocess`` does not fit the signature.
    """
    preprocess = parse_preprocess(preprocess) if isinstance(preprocess, str) else preprocess
    if preprocess is not None:
        preprocess = preprocess.resolved(fitter.signature)
        fitter.image_input = preprocess.input
    inputs = [name for name in fitter.types if name not in fitter.optional] or list(fitter.types)
    if isinstance(source, str) and source == "random":
        items = random_batches(fitter.signature, seed, random_count, examples)
        return Origin(name="random numbers", records=spooled(items, spool), random=True)
    if isinstance(source, str | Path):
        path = Path(source)
        if path.exists() or not isinstance(source, str) or ":" not in source:
            if not path.exists():
                msg = f"--calib {source}: no such file or folder"
                raise UsageError(msg, hint=HINT_NO_DATA)
            return prepared(
                open_files(path, inputs, spool, fitter.note, image_opener(preprocess, inputs, spool)), preprocess
            )
        found, name, folders = objects.import_batches(source, search_path), source, search_path
    else:
        found, name, folders = source, objects.describe(source), ()
    if isinstance(found, str | Path):
        msg = f"{name}: expected something that yields batches, got the text '{found}'"
        raise CalibrationError(msg, hint="yield {input name: array}")
    if objects.is_stack(found):
        arrays = {key: HeldArray(a) for key, a in objects.arrays_of(found, name, inputs, fitter.note).items()}
        return prepared(Origin(name=name, records=[Record(where=name, load=lambda: arrays)]), preprocess)
    items = objects.iterate(found, name, inputs, fitter.note, folders)
    return prepared(Origin(name=name, records=spooled(items, spool)), preprocess)


def _read_all(
    origin: Origin, fitter: Fitter, reader: BatchReader, max_samples: int, progress: Callable[[int], None] | None
) -> list[tuple[Batch, bytes]]:
    """Reads and checks every batch that will be used; each comes with the hash of its content."""
    records = origin.records
    if isinstance(records, list) and len(records) > max_samples:
        fitter.note(f"{origin.name}: {max_samples} of {len(records)} files are used, evenly spaced")
        records = [records[i * len(records) // max_samples] for i in range(max_samples)]
    batches: Iterable[Batch] = cut(records, fitter, reader)
    if isinstance(records, list) and len(records) == 1:  # where the samples lie is known: any of them can be picked
        batches = list(batches)
        wanted = max(1, max_samples // max(1, batches[0].samples)) if batches else 0
        if len(batches) > wanted:
            total = sum(batch.samples for batch in batches)
            batches = [batches[i * len(batches) // wanted] for i in range(wanted)]
            fitter.note(f"{origin.name}: {sum(b.samples for b in batches)} of {total} samples are used, evenly spaced")
    found: list[tuple[Batch, bytes]] = []
    count = 0
    for batch in batches:
        if count and count + batch.samples > max_samples:
            fitter.note(f"{origin.name}: only the first {count} samples are used")
            break
        found.append((batch, _hash(reader.read(batch))))
        count += batch.samples
        if progress is not None:
            progress(count)
    return found


def _hash(arrays: Mapping[str, Array]) -> bytes:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{len(name)}:{name} {array.dtype.name} {list(array.shape)}\n".encode())
        if array.dtype.hasobject:
            for text in array.reshape(-1):
                data = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
                digest.update(b"%d:" % len(data) + data)
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _joined_hash(batches: Iterable[tuple[Batch, bytes]]) -> str:
    return hashlib.sha256(b"".join(digest for _, digest in batches)).hexdigest()


def _samples(count: int) -> str:
    return f"{count} sample{'' if count == 1 else 's'}"
