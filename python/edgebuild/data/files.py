"""Calibration data in files: a folder of ``.npy``, ``.npz`` or images, or one such file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgebuild.data.arrays import LazyArray, open_npy, open_npz
from edgebuild.data.records import Origin, Record, unchanged
from edgebuild.data.spool import Spool
from edgebuild.errors import CalibrationError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")

Note = Callable[[str], None]
OpenImages = Callable[[Path, list[Path]], Origin]

_LAYOUTS = "a folder holds .npz files (keys: input names), .npy files (for a model with one input, or one subfolder an input), or images"


def open_files(path: Path, inputs: Sequence[str], spool: Spool, note: Note, open_images: OpenImages) -> Origin:
    """A source for a path that exists.

    Args:
        path: A file or a folder.
        inputs: Names of the model's inputs.
        spool: Where large compressed files are unpacked.
        note: Hears what was left aside.
        open_images: ``(path, files) -> Origin`` for images.

    Raises:
        CalibrationError: There is nothing to calibrate with, or several kinds of it.
    """
    if path.is_file():
        kind = _kind(path)
        if kind == "npz":
            return Origin(name=str(path), records=[_npz_record(path, spool)])
        if kind == "npy":
            return Origin(name=str(path), records=[_npy_record({_only(inputs, path): path}, str(path))])
        if kind == "image":
            return open_images(path, [path])
        msg = f"{path}: not calibration data: expected .npy, .npz or an image"
        raise CalibrationError(msg, hint=_LAYOUTS)
    if not path.is_dir():
        msg = f"{path}: neither a file nor a folder"
        raise CalibrationError(msg, hint=_LAYOUTS)
    try:
        children = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise CalibrationError(msg, hint="check the folder's permissions") from None
    subfolders = {p.name: p for p in children if p.is_dir()}
    if subfolders and set(inputs) <= set(subfolders) and any(subfolders[name].glob("*.npy") for name in inputs):
        return _by_input(path, inputs, subfolders)
    found: dict[str, list[Path]] = {"npy": [], "npz": [], "image": []}
    others: list[Path] = []
    for child in children:
        if child.is_file():
            found.get(_kind(child) or "", others).append(child)
    # Images commonly lie in one folder a class.
    found["image"] += [p for folder in subfolders.values() for p in _images_below(folder)]
    kinds = [kind for kind, paths in found.items() if paths]
    if not kinds:
        what = f"{len(others)} other files, e.g. {others[0].name}" if others else "nothing"
        msg = f"{path}: an empty calibration set: no .npy, .npz or image in it ({what})"
        raise CalibrationError(msg, hint=_LAYOUTS)
    if len(kinds) > 1:
        counts = ", ".join(f"{len(found[kind])} {kind} (e.g. {found[kind][0].name})" for kind in kinds)
        msg = f"{path}: holds several kinds of calibration data: {counts}"
        raise CalibrationError(msg, hint="keep one kind in the folder, or give the folder of one kind")
    if others:
        note(f"{path}: {len(others)} files of other kinds were left aside, e.g. {others[0].name}")
    if kinds == ["image"]:
        return open_images(path, found["image"])
    if kinds == ["npz"]:
        return Origin(name=f"{path}/*.npz", records=[_npz_record(p, spool) for p in found["npz"]])
    name = _only(inputs, path)
    return Origin(name=f"{path}/*.npy", records=[_npy_record({name: p}, str(p)) for p in found["npy"]])


def is_data(path: Path) -> bool:
    """Whether a file may be data, by its name."""
    return _kind(path) is not None and not path.name.startswith(".")


def _kind(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return "image" if suffix in IMAGE_SUFFIXES else suffix[1:] if suffix in (".npy", ".npz") else None


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def _only(inputs: Sequence[str], path: Path) -> str:
    if len(inputs) == 1:
        return inputs[0]
    msg = f"{path}: .npy files hold one array, the model has {len(inputs)} inputs: {', '.join(inputs)}"
    raise CalibrationError(msg, hint="use .npz files with these keys, or one subfolder of .npy files an input")


def _by_input(path: Path, inputs: Sequence[str], folders: Mapping[str, Path]) -> Origin:
    files = {name: {p.stem: p for p in folders[name].glob("*.npy") if not p.name.startswith(".")} for name in inputs}
    stems = sorted(set[str]().union(*files.values()))
    for stem in stems:
        for name in inputs:
            if stem not in files[name]:
                msg = f"{path}: input '{name}': {name}/{stem}.npy is missing, other inputs have it"
                raise CalibrationError(msg, hint="the same file name in each input's folder makes one input set")
    return Origin(
        name=f"{path}/INPUT/*.npy",
        records=[
            _npy_record({name: files[name][stem] for name in inputs}, str(path / "*" / f"{stem}.npy")) for stem in stems
        ],
    )


def _npz_record(path: Path, spool: Spool) -> Record:
    return Record(where=str(path), load=unchanged([path], lambda: open_npz(path, spool.folder)))


def _npy_record(paths: Mapping[str, Path], where: str) -> Record:
    def load() -> Mapping[str, LazyArray]:
        return {name: open_npy(path) for name, path in paths.items()}

    return Record(where=where, load=unchanged(list(paths.values()), load))
