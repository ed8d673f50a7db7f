"""What can be said against calibration data before there is a model: checked before an export that takes minutes."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgebuild.data.arrays import open_npy, open_npz
from edgebuild.data.calibration import HINT_NO_DATA, MAX_SAMPLES
from edgebuild.data.files import IMAGE_SUFFIXES, OpenImages, open_files
from edgebuild.data.fit import check_finite
from edgebuild.data.images import decode, image_opener
from edgebuild.data.preprocess import Preprocess
from edgebuild.data.records import Origin
from edgebuild.data.spool import Spool
from edgebuild.errors import CalibrationError, EdgebuildError, UsageError
from edgebuild.model.importing import import_attribute
from edgebuild.model.request import InputRequest

_ROWS = 8
"""Of each array, which are looked at."""


def survey(
    source: Any,
    *,
    preprocess: Preprocess | str | None = None,
    search_path: Sequence[str] = (),
    limit: int = MAX_SAMPLES,
) -> None:
    """Raises what ``open_calibration`` would raise for any model; reads little of the data, and no user's code is called.

    Args:
        source: As ``open_calibration`` takes it; objects from Python are not looked into.
        preprocess: Whether something was said about images.
        search_path: Where a ``module`` is looked for first.
        limit: Files to look into at most.

    Raises:
        CalibrationError: It is empty, of no known kind, of several kinds, or holds a file that can't be read.
        UsageError: It does not exist.
        ToolError: It is images, and Pillow is missing.
    """
    if not isinstance(source, str | Path) or source == "random":
        return
    path = Path(source)
    if not path.exists():
        if isinstance(source, str) and ":" in source:
            import_attribute(
                source, search_path, option="--calib", noun="callable", example="mydata:batches", error=CalibrationError
            )
            return
        msg = f"--calib {source}: no such file or folder"
        raise UsageError(msg, hint=HINT_NO_DATA)
    spool = Spool(None)  # nothing is kept: what is opened here is dropped
    try:
        files = _array_files(path)
        if files:
            names: dict[str, Path] = {}
            for file in files[:limit]:
                names = _check_file(file, names, spool)
        else:  # what is wrong with the whole is said by what opens it, whatever the inputs are called
            open_files(path, ["x"], spool, lambda text: None, _image_check(preprocess, spool))
    finally:
        spool.close()


def _array_files(path: Path) -> list[Path]:
    """Files of arrays of one kind; empty: there are others, or none."""
    if path.is_file():
        return [path] if path.suffix.lower() in (".npy", ".npz") else []
    try:
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        below = sorted(p for p in path.glob("*/*.npy") if p.is_file() and not p.name.startswith("."))
    except OSError:
        return []
    kinds = {kind: [p for p in files if p.suffix.lower() == kind] for kind in (".npy", ".npz", *IMAGE_SUFFIXES)}
    present = [kind for kind, paths in kinds.items() if paths]
    if not present:
        return below  # a subfolder for each input
    return kinds[present[0]] if len(present) == 1 and present[0] in (".npy", ".npz") else []


def _image_check(preprocess: Preprocess | str | None, spool: Spool) -> OpenImages:
    if preprocess is None:
        return image_opener(None, ["x"], spool)

    def check(path: Path, files: list[Path]) -> Origin:
        decode(files[0])
        return Origin(name=str(path), records=[])

    return check


def _check_file(file: Path, names: dict[str, Path], spool: Spool) -> dict[str, Path]:
    """One ``.npy`` or ``.npz`` file; ``names`` are the keys of the first, which is read as a whole."""
    if file.suffix.lower() == ".npy":
        _check_array(file, "", open_npy(file).shape)
        return names
    if not names:
        arrays = open_npz(file, spool.folder)
        for name, array in arrays.items():
            _check_array(file, name, array.shape)
            if array.dtype.kind in "fc" and array.shape:
                check_finite(array.rows(0, _ROWS), name, str(file))  # the others are checked when they are read
        return dict.fromkeys(arrays, file)
    try:
        with zipfile.ZipFile(file) as archive:
            found = {info.filename.removesuffix(".npy") for info in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"{file}: not a sound .npz file: {why}"
        raise CalibrationError(msg, hint="write it with numpy.savez(file, NAME=array), or leave it out") from None
    # Optional inputs may be left out of some files, so only what has nothing in common is no file of these.
    if not found & set(names):
        first = next(iter(names.values())).name
        msg = f"{file}: holds {_list(found)}, expected {_list(names)} as in {first}"
        raise CalibrationError(msg, hint="the same input names in each file")
    return names


def _check_array(file: Path, name: str, shape: Sequence[int]) -> None:
    if 0 in shape:
        what = f"'{name}' is " if name else ""
        msg = f"{file}: {what}empty, of shape ({', '.join(map(str, shape))})"
        raise CalibrationError(msg, hint="leave it out, or write the samples into it")


def _list(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "nothing"


def sizes_of(file: Path, *, stacked: bool) -> tuple[InputRequest, ...]:
    """What ``--input`` would say of the file's arrays; empty: it is one set of inputs as it is, so it can be the ``--sample``.

    Args:
        file: An ``.npz``, or an ``.npy`` for a model with one input.
        stacked: It holds many samples along the first axis, of which a run takes one.

    Raises:
        CalibrationError: It can't be read.
    """
    spool = Spool(None)
    try:
        arrays = {"": open_npy(file)} if file.suffix == ".npy" else open_npz(file, spool.folder)
        stacked = stacked and all(array.shape for array in arrays.values())
        # NumPy's own float64 is what an array is that nobody gave a type; calibration casts it, as it does here.
        if not stacked and all(array.dtype != np.float64 for array in arrays.values()):
            return ()
        said = []
        for name, array in arrays.items():
            dtype = "float32" if array.dtype == np.float64 else array.dtype.name
            sizes = (1, *array.shape[1:]) if stacked else array.shape
            said.append(InputRequest(name=name or None, dtype=dtype, shape=tuple(sizes)))
        return tuple(said)
    finally:
        spool.close()


def as_calibration(error: EdgebuildError, calib: Any, sample: Path) -> EdgebuildError:
    """An error about the sample that calibration data gave, in terms of that data: nobody gave a ``--sample``.

    Args:
        error: What the export says.
        calib: What the user gave.
        sample: The file whose sizes were taken for the model's.
    """
    told = f"{error.message} {error.hint or ''}"
    if isinstance(error, CalibrationError) or not any(
        word in told for word in ("--sample", "--input", "tensor input", str(sample))
    ):
        return error
    message = error.message.removeprefix(f"--sample {sample}: ")
    hint = (
        "give arrays with the names, dtypes and sizes of the model's inputs; or say them: --input 'NAME:DTYPE[SIZES]'"
    )
    if "no tensor input" in message:
        hint = "name the arrays as the model's inputs, and leave out what is none, e.g. labels"
    elif "plain arrays" in message and error.hint:
        hint = error.hint
    elif "uint8" in _dtypes(sample):
        hint = (
            "they are uint8: if these are decoded images, say how the model's input is made of them, e.g. --preprocess imagenet; "
            "else store what the model takes, e.g. float32"
        )
    return CalibrationError(f"--calib {calib}: {sample}: {message}", hint=hint)


def _dtypes(file: Path) -> set[str]:
    """Element types in a file of arrays; empty: it can't be read."""
    spool = Spool(None)
    try:
        arrays = {"": open_npy(file)} if file.suffix == ".npy" else open_npz(file, spool.folder)
        return {array.dtype.name for array in arrays.values()}
    except EdgebuildError:
        return set()
    finally:
        spool.close()
