"""Calibration data that are images: decoded here, by Pillow; made into inputs by the runner's own preprocessing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebuild.data.arrays import LazyArray, open_npy
from edgebuild.data.image_spec import Preprocess
from edgebuild.data.records import Arrays, Origin, Record, unchanged
from edgebuild.data.spool import Spool
from edgebuild.errors import CalibrationError, SignatureError, ToolError

Array = NDArray[Any]


def image_opener(
    preprocess: Preprocess | None, inputs: Sequence[str], spool: Spool
) -> Callable[[Path, list[Path]], Origin]:
    """``(path, files) -> Origin`` for image files.

    The source refuses images of which nobody said how to make inputs: a wrong guess would calibrate for other pictures.
    """

    def open_images(path: Path, files: list[Path]) -> Origin:
        if preprocess is None:
            msg = f"{path}: holds images, e.g. {files[0].name}, and how inputs are made of them was not said"
            raise CalibrationError(msg, hint="say it as in training: --preprocess imagenet, or --preprocess 'resize=…'")
        if list(inputs) != [preprocess.input]:
            msg = f"{path}: images give input '{preprocess.input}' only, the model takes {', '.join(inputs)}"
            raise CalibrationError(
                msg, hint="use .npz files with every input; --preprocess works on uint8 images in them"
            )
        _pillow()
        name = str(path) if files == [path] else f"{path}/*{files[0].suffix.lower()}"
        return Origin(name=name, records=[_record(file, preprocess, spool) for file in files])

    return open_images


def _record(file: Path, preprocess: Preprocess, spool: Spool) -> Record:
    name = preprocess.input or ""
    kept: list[Path] = []  # decoding is dear, and every batch is read several times

    def load() -> Arrays:
        if not kept:
            made = _applied(preprocess, decode(file), str(file))
            target = spool.folder() / "0.npy"
            with spool.storage_errors():
                np.save(target, made, allow_pickle=False)
            kept.append(target)
        return {name: open_npy(kept[0])}

    return Record(where=str(file), load=unchanged([file], load), prepared=True)


def decode(file: Path) -> Array:
    """An image file as (H, W, 3) uint8, RGB, as it is stored: EXIF orientation is not applied, as in torchvision.

    Raises:
        CalibrationError: It is not an image, or is damaged.
        ToolError: Pillow is missing.
    """
    image = _pillow()
    try:
        with image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # decoders of damaged files raise many things
        msg = f"{file}: not an image that Pillow can decode: {error}"
        raise CalibrationError(msg, hint="leave it out, or repair it") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        msg = "decoding images needs Pillow, which is not installed"
        raise ToolError(msg, hint="pip install 'edgebuild[images]', or give decoded images as .npy") from None
    return Image


def prepared(origin: Origin, preprocess: Preprocess | None) -> Origin:
    """The same source, with what is decoded images in it made into inputs.

    Raises:
        CalibrationError: When a record is loaded: the input to be made is there, but not as uint8 images.
    """
    if preprocess is None:
        return origin

    def wrapped(record: Record) -> Record:
        return record if record.prepared else replace(record, load=lambda: _prepared(record, preprocess))

    if isinstance(origin.records, list):
        return replace(origin, records=[wrapped(record) for record in origin.records])
    return replace(origin, records=map(wrapped, origin.records))


def _prepared(record: Record, preprocess: Preprocess) -> Arrays:
    arrays: Mapping[str, LazyArray] = record.load()
    name = preprocess.input or ""
    if name not in arrays:
        return arrays
    return {**arrays, name: ImageArray(arrays[name], preprocess, record.where)}


class ImageArray:
    """A LazyArray of tensors that are made of images when they are asked for.

    Args:
        images: ``uint8``, (H, W), (H, W, C) or (N, H, W, C).
        preprocess: How, resolved.
        where: What messages call the images.
    """

    def __init__(self, images: LazyArray, preprocess: Preprocess, where: str) -> None:
        rank = len(images.shape)
        if images.dtype != np.uint8 or rank not in (2, 3, 4):
            msg = f"{where}: input '{preprocess.input}': expected decoded images, uint8[H,W,C] or uint8[N,H,W,C]"
            msg += f", got {images.dtype}{list(images.shape)}"
            raise CalibrationError(msg, hint="leave --preprocess out for arrays that are inputs already")
        first = 1 if rank == 4 else 0
        count = images.shape[0] if rank == 4 else 1
        self.dtype: np.dtype[Any] = np.dtype(preprocess.dtype)
        self.shape: tuple[int, ...] = (count, *preprocess.output_shape(*images.shape[first : first + 2]))
        self._images = images
        self._preprocess = preprocess
        self._where = where

    def rows(self, start: int, stop: int) -> Array:
        if len(self._images.shape) == 4:
            return _applied(self._preprocess, self._images.rows(start, stop), self._where)
        return self.whole()[start:stop]

    def whole(self) -> Array:
        return _applied(self._preprocess, self._images.whole(), self._where)


def _applied(preprocess: Preprocess, images: Array, where: str) -> Array:
    try:
        return preprocess.apply(images)
    except SignatureError as error:
        msg = f"{where}: input '{preprocess.input}': {error.message}"
        raise CalibrationError(msg, hint=error.hint) from None
