"""Arrays of ``.npy`` and ``.npz`` files, of which only the rows that are asked for lie in memory.

Rows are read, not memory-mapped: mapped pages count as memory of the process, and would grow with the number of samples.
"""

import math
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebuild.errors import CalibrationError, ResourceError

Array = NDArray[Any]

_LARGE = 64 * 2**20
"""Bytes of an ``.npz`` from which on it is unpacked to disk, to be read by rows."""

_PICKLE_HINT = "save plain arrays: numpy.save(file, array), where array.dtype is not object"


class LazyArray(Protocol):
    """An array whose rows may still lie in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` along the first axis; the array has at least one axis."""

    def whole(self) -> Array:
        """All of it."""


class HeldArray:
    """A LazyArray in memory."""

    def __init__(self, array: Array) -> None:
        self.dtype = array.dtype
        self.shape: tuple[int, ...] = array.shape
        self._array = array

    def rows(self, start: int, stop: int) -> Array:
        return self._array[start:stop]

    def whole(self) -> Array:
        return self._array


class StoredArray:
    """A LazyArray in an ``.npy`` file, row-major.

    Args:
        path: The file.
        offset: Where its elements begin, in bytes.
        dtype: Element type, in the file's byte order.
        shape: Its shape.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._path = path
        self._offset = offset

    def rows(self, start: int, stop: int) -> Array:
        stop = min(stop, self.shape[0])
        return self._read(start * math.prod(self.shape[1:]), (stop - start, *self.shape[1:]))

    def whole(self) -> Array:
        return self._read(0, self.shape)

    def _read(self, first: int, shape: tuple[int, ...]) -> Array:
        count = math.prod(shape)
        with self._path.open("rb") as stream:
            stream.seek(self._offset + first * self.dtype.itemsize)
            found = np.fromfile(stream, dtype=self.dtype, count=count)
        if found.size != count:
            msg = f"{self._path}: ends too early: expected {count} elements of {self.dtype}, got {found.size}"
            raise CalibrationError(msg, hint="the file was cut off; write it again")
        return found.reshape(shape)


def open_npy(path: Path) -> LazyArray:
    """Opens an ``.npy`` file; pickled ones are refused.

    Raises:
        CalibrationError: It is not an ``.npy`` file of plain elements, or is cut off.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            if start[:1] == b"\x80":
                msg = f"{path}: a pickle, expected an .npy file of plain elements; a pickle can run code"
                raise CalibrationError(msg, hint=_PICKLE_HINT)
            stream.seek(0)
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
            else:  # (3, 0) is for fields with names beyond Latin-1, which no tensor has
                msg = f"{path}: .npy format {version[0]}.{version[1]}, expected 1.0 or 2.0"
                raise CalibrationError(msg, hint="save a plain array with numpy.save")
            offset = stream.tell()
    except CalibrationError:
        raise
    except Exception as error:  # a damaged header breaks NumPy's parser in many ways
        raise _unreadable(path, error) from None
    if dtype.hasobject:
        msg = f"{path}: holds pickled Python objects, expected plain elements; a pickle can run code"
        raise CalibrationError(msg, hint=_PICKLE_HINT)
    expected, got = offset + dtype.itemsize * math.prod(shape), path.stat().st_size
    if got < expected:
        msg = f"{path}: cut off: expected {expected} bytes for {dtype}{list(shape)}, got {got}"
        raise CalibrationError(msg, hint="write the file again")
    if fortran and len(shape) > 1:
        return HeldArray(np.load(path, mmap_mode="r", allow_pickle=False))  # rows are scattered over the file
    return StoredArray(path, offset, dtype, shape)


def open_npz(path: Path, spool: Callable[[], Path]) -> Mapping[str, LazyArray]:
    """Opens an ``.npz`` file. A large one is unpacked into ``spool()``, a new folder, and read from there by rows.

    Raises:
        CalibrationError: It is not an ``.npz`` of plain arrays, is damaged, or holds no array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if not members:
                msg = f"{path}: holds no array"
                raise CalibrationError(msg, hint="write it with numpy.savez(file, NAME=array)")
            if sum(info.file_size for info in members) > _LARGE:
                return _unpack(archive, members, spool())
        with np.load(path, allow_pickle=False) as arrays:
            return {name: HeldArray(arrays[name]) for name in arrays.files}
    except (CalibrationError, ResourceError):
        raise
    except Exception as error:  # as above
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            msg = f"{path}: holds pickled Python objects, expected plain arrays; a pickle can run code"
            raise CalibrationError(msg, hint=_PICKLE_HINT) from None
        raise _unreadable(path, error) from None


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> Mapping[str, LazyArray]:
    found: dict[str, LazyArray] = {}
    for index, info in enumerate(members):
        target = folder / f"{index}.npy"
        with archive.open(info) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        found[info.filename.removesuffix(".npy")] = open_npy(target)
    return found


def _unreadable(path: Path, error: Exception) -> CalibrationError:
    if isinstance(error, OSError) and error.strerror:
        return CalibrationError(f"{path}: can't be read: {error.strerror}")
    suffix = path.suffix or "array"
    return CalibrationError(
        f"{path}: not a sound {suffix} file: {error}", hint="write it with numpy.save or numpy.savez(file, NAME=array)"
    )
