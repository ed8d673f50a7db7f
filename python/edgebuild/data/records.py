"""Input sets as they were given: each is looked at when it is needed, and can be looked at again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild.data.arrays import HeldArray, LazyArray, open_npy
from edgebuild.data.spool import Spool
from edgebuild.errors import CalibrationError

Array = NDArray[Any]
Arrays = Mapping[str, LazyArray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One input set as it was given.

    Args:
        where: What messages call it, e.g. ``calib/003.npz``.
        load: Its arrays by input name; files stay closed until their rows are read.
        prepared: Whether images were made into inputs already.
    """

    where: str
    load: Callable[[], Arrays]
    prepared: bool = False


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source of records.

    Args:
        name: What the summary calls it, e.g. ``calib/*.npz``.
        records: In order; a list can be picked from, what is no list is read once.
        random: Whether it was asked for by the name "random".
    """

    name: str
    records: Iterator[Record] | list[Record]
    random: bool = False


class RecordReader:
    """Loads records, keeping the last one: its batches follow each other."""

    def __init__(self) -> None:
        self._record: Record | None = None
        self._arrays: Arrays = {}

    def arrays(self, record: Record) -> Arrays:
        if record is not self._record:
            self._record, self._arrays = None, {}  # let the last one go before the next is read
            self._arrays = record.load()
            self._record = record
        return self._arrays


def unchanged(paths: list[Path], load: Callable[[], Arrays]) -> Callable[[], Arrays]:
    """``load``, which from its second call on sees that the files are still the same."""
    seen: list[tuple[int, int]] = []

    def checked() -> Arrays:
        try:
            now = [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in paths)]
        except OSError as error:
            msg = f"{error.filename}: can't be read: {error.strerror}"
            raise CalibrationError(msg, hint="leave the calibration data alone until the build is done") from None
        if seen and now != seen:
            path = next(p for p, a, b in zip(paths, now, seen, strict=True) if a != b)
            msg = f"{path}: changed while the build was reading it"
            raise CalibrationError(msg, hint="leave the calibration data alone until the build is done")
        seen[:] = now
        return load()

    return checked


def spooled(items: Iterator[tuple[str, Mapping[str, Array]]], spool: Spool) -> Iterator[Record]:
    """Records of a source that yields its arrays once: they are written to disk, to be read again."""
    for where, arrays in items:
        folder = spool.folder()
        stored = {}
        for index, (name, array) in enumerate(arrays.items()):
            if array.dtype.hasobject:  # strings have no plain form in a file
                stored[name] = _held(array)
                continue
            with spool.storage_errors():
                np.save(folder / f"{index}.npy", array, allow_pickle=False)
            stored[name] = _opened(folder / f"{index}.npy", array.dtype)
        yield Record(where=where, load=_loader(stored))


def _loader(stored: Mapping[str, Callable[[], LazyArray]]) -> Callable[[], Arrays]:
    return lambda: {name: load() for name, load in stored.items()}


def _held(array: Array) -> Callable[[], LazyArray]:
    kept = np.array(array)
    return lambda: HeldArray(kept)


def _opened(path: Path, dtype: np.dtype[Any]) -> Callable[[], LazyArray]:
    def load() -> LazyArray:
        found = open_npy(path)
        found.dtype = dtype  # types of ml_dtypes come back as raw bytes
        return found

    return load
