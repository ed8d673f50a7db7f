"""Preprocess: how decoded images become an input, and its JSON form in a manifest (docs/bundle-format.md)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgebuild.errors import UsageError
from edgebuild.model.signature import Dim, Signature, TensorType

if TYPE_CHECKING:  # the readers of bundles use the rules below, and need no numpy
    from numpy.typing import NDArray

MAX_SIDE = 16384
"""Largest size that may be asked for, in pixels."""

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127

Size = tuple[int, int]
"""Height and width."""

INTERPOLATIONS = ("bilinear", "bicubic")
CHANNELS = ("rgb", "bgr", "gray")
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "float16", "uint8")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How decoded images become one input. Steps in their order: colour, resize, centre crop, values, layout.

    Args:
        input: The input's name; None: the only one that takes images.
        resize: The shorter side's new size, or an exact (height, width); None: sizes stay.
        crop: (height, width) around the centre, black where the image is smaller; None: all of it.
        interpolation: ``bilinear`` or ``bicubic``, both antialiased, as Pillow does it.
        channels: What the model takes: ``rgb``, ``bgr`` or ``gray``. Images are RGB.
        layout: ``nchw`` or ``nhwc``; None: as the signature shows.
        dtype: ``float32``, ``float16`` or ``uint8``; None: the input's.
        scale: Factor of the pixels, which are 0 to 255; None: 1/255, but 1 if the dtype is uint8.
        mean: Taken away after that; one number a channel, in the model's order.
        std: Divided by at last.
        preset: Which preset the sizes come from, while they may still follow the model's.
    """

    input: str | None = None
    resize: int | Size | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"
    channels: str = "rgb"
    layout: str | None = None
    dtype: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    preset: str | None = None

    def __str__(self) -> str:
        """The text that parses to this value."""
        before = "" if self.input is None else f"{self.input}: "
        if self.preset is not None and self == replace(_preset(self.preset), input=self.input):
            return before + self.preset
        parts = [] if self.preset is None else [self.preset]  # it stands for its sizes, which follow the model's
        if self.resize is not None and self.preset is None:
            parts.append(f"resize={self.resize if isinstance(self.resize, int) else _size_text(self.resize)}")
        if self.crop is not None and self.preset is None:
            parts.append(f"crop={self.crop[0] if self.crop[0] == self.crop[1] else _size_text(self.crop)}")
        if self.resize is not None:
            parts.append(f"interpolation={self.interpolation}")
        parts.append(f"channels={self.channels}")
        parts += [f"{key}={value}" for key in ("layout", "dtype") if (value := getattr(self, key)) is not None]
        if self.scale is not None:
            parts.append(f"scale={_scale_text(self.scale)}")
        parts.append(f"mean={';'.join(map(repr, self.mean))}")
        parts.append(f"std={';'.join(map(repr, self.std))}")
        return before + ",".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The input's entry in the manifest; only of what ``resolved`` gave."""
        resize: dict[str, int] | None = None
        if self.resize is not None:
            resize = {"shorter": self.resize} if isinstance(self.resize, int) else _size_json(self.resize)
        return {
            "kind": "image",
            "resize": resize,
            "crop": None if self.crop is None else _size_json(self.crop),
            "interpolation": self.interpolation,
            "channels": self.channels,
            "layout": self.layout,
            "dtype": self.dtype,
            "scale": _scale(self),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, name: str, data: Mapping[str, Any]) -> "Preprocess":
        """The inverse of ``to_json`` for the input ``name``; ``data`` has been validated."""
        resize, crop = data["resize"], data["crop"]
        if resize is not None:
            resize = resize["shorter"] if "shorter" in resize else (resize["height"], resize["width"])
        return cls(
            input=name,
            resize=resize,
            crop=None if crop is None else (crop["height"], crop["width"]),
            scale=float(data["scale"]),
            mean=tuple(map(float, data["mean"])),
            std=tuple(map(float, data["std"])),
            **{key: data[key] for key in ("interpolation", "channels", "layout", "dtype")},
        )

    def resolved(self, signature: Signature) -> "Preprocess":
        """Fills in what the signature says: the input, its layout and dtype, and a preset's sizes.

        Raises:
            UsageError: There is no such input, or what would be made of images does not fit it.
        """
        name = self.input if self.input is not None else _image_input(signature)
        kind = next((spec.type for spec in signature.inputs if spec.name == name), None)
        if not isinstance(kind, TensorType):
            names = ", ".join(spec.name for spec in signature.inputs)
            msg = f"--preprocess: no tensor input '{name}'; the model takes {names}"
            raise UsageError(msg, hint="name an input, 'NAME: resize=…', or leave the name out")
        dtype = self.dtype or kind.dtype
        found = replace(self, input=name, dtype=dtype, layout=self.layout or _layout(kind, len(self.mean)))
        found = _follow(found, kind).checked()
        found = replace(found, scale=_scale(found))
        _check_fits(found, kind)
        return found

    def checked(self) -> "Preprocess":
        """The same with one mean and std a channel.

        Raises:
            UsageError: It does not make sense by itself.
        """
        made = self._in_channels()
        _check_values(made)
        return made

    def _in_channels(self) -> "Preprocess":
        """The same with one mean and std a channel."""
        count = 1 if self.channels == "gray" else 3
        made = {}
        for key in ("mean", "std"):
            values: tuple[float, ...] = getattr(self, key)
            if len(values) in (1, 3) and len(set(values)) == 1:
                values = values[:1] * count
            if len(values) != count:
                msg = f"--preprocess: {key}: expected {count} numbers for channels={self.channels}, got {len(values)}"
                raise UsageError(msg, hint="give one number, or one for each channel")
            made[key] = values
        return replace(self, **made)  # type: ignore[arg-type]

    def apply(self, images: "NDArray[Any]") -> "NDArray[Any]":
        """Makes decoded images into the input, in C++; only of what ``resolved`` gave.

        Args:
            images: ``uint8``, (H, W), (H, W, C) or (N, H, W, C); C = 1, 3 (RGB) or 4 (RGBA).

        Returns:
            The tensor with its batch axis, e.g. (1, 3, 224, 224).

        Raises:
            SignatureError: The images have another dtype or shape.
        """
        import numpy as np

        from edgebuild import _runtime

        assert self.layout is not None
        assert self.dtype is not None
        return _runtime.preprocess(
            np.asarray(images),
            resize_shorter=self.resize if isinstance(self.resize, int) else 0,
            resize=None if isinstance(self.resize, int) else self.resize,
            crop=self.crop,
            interpolation=self.interpolation,
            channels=self.channels,
            layout=self.layout,
            dtype=self.dtype,
            scale=_scale(self),
            mean=self.mean,
            std=self.std,
        )

    def output_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Sizes of one tensor without its batch axis, for an image of a size; as ``apply`` makes it."""
        size = (height, width)
        if self.crop is not None:
            size = self.crop
        elif isinstance(self.resize, int):
            short = max(1, min(height, width))
            size = (self.resize * height // short, self.resize * width // short)
        elif self.resize is not None:
            size = self.resize
        count = len(self.mean)
        return (*size, count) if self.layout == "nhwc" else (count, *size)


def _preset(name: str) -> Preprocess:
    from edgebuild.data.preprocess import parse_preprocess

    return parse_preprocess(name)


def _check_values(spec: Preprocess) -> None:
    """Sees that a spec makes sense by itself, as the readers of a manifest do."""
    for key, size in (("resize", spec.resize), ("crop", spec.crop)):
        sides = size if isinstance(size, tuple) else (size,) if size is not None else ()
        if not all(1 <= side <= MAX_SIDE for side in sides):
            msg = f"--preprocess: {key}: expected sides from 1 to {MAX_SIDE}, got {size}"
            raise UsageError(msg, hint="give sizes in pixels")
    problem = values_problem(_scale(spec), spec.mean, spec.std, spec.dtype)
    if problem is not None:
        msg = f"--preprocess: {problem}"
        raise UsageError(msg, hint="for example --preprocess imagenet, or mean=0.5,std=0.5,scale=1/255")


def values_problem(scale: float, mean: Sequence[float], std: Sequence[float], dtype: str | None) -> str | None:
    """What is wrong with the numbers of a spec; None if nothing is."""
    if not (math.isfinite(scale) and scale > 0):
        return f"scale: expected a number above 0, got {scale}"
    if not all(map(math.isfinite, mean)):
        return f"mean: expected finite numbers, got {list(mean)}"
    if not all(math.isfinite(s) and s > 0 for s in std):
        return f"std: expected numbers above 0, got {list(std)}"
    if any(
        abs((level * scale - m) / s) > _FLOAT32_MAX for m, s in zip(mean, std, strict=True) for level in (0.0, 255.0)
    ):
        return "scale, mean and std lead beyond float32"
    if dtype == "uint8" and (scale != 1 or any(mean) or any(s != 1 for s in std)):
        return "uint8: expected scale 1, mean 0 and std 1"
    return None


def _image_input(signature: Signature) -> str:
    """The only input that could be images."""
    found = [
        spec.name
        for spec in signature.inputs
        if isinstance(spec.type, TensorType)
        and spec.type.dtype in DTYPES
        and (spec.type.shape is None or len(spec.type.shape) == 4)
    ]
    if len(found) == 1:
        return found[0]
    what = f"several inputs could be images: {', '.join(found)}" if found else "no input of the model takes images"
    msg = f"--preprocess: {what}"
    raise UsageError(msg, hint="name the input: --preprocess 'NAME: imagenet'" if found else "leave --preprocess out")


def _layout(kind: TensorType, channels: int) -> str:
    shape = kind.shape
    if shape is not None and len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3, channels):
        return "nhwc"
    return "nchw"


def _spatial(spec: Preprocess, kind: TensorType) -> tuple[Dim, Dim]:
    shape = kind.shape if kind.shape is not None and len(kind.shape) == 4 else (None,) * 4
    return (shape[1], shape[2]) if spec.layout == "nhwc" else (shape[2], shape[3])


def _follow(spec: Preprocess, kind: TensorType) -> Preprocess:
    """A preset's sizes follow the model's: its crop, and a shorter side in the same proportion to it."""
    sides = _spatial(spec, kind)
    if spec.preset is None or spec.crop is None or not isinstance(spec.resize, int):
        return replace(spec, preset=None)
    height, width = sides
    if isinstance(height, int) and isinstance(width, int) and (height, width) != spec.crop and min(height, width) > 0:
        resize = spec.resize * min(height, width) // spec.crop[0]
        return replace(spec, crop=(height, width), resize=resize, preset=None)
    return replace(spec, preset=None)


def _check_fits(spec: Preprocess, kind: TensorType) -> None:
    """Sees that what is made of images is what the input takes, as far as both can be known."""
    problem = fit_problem(spec.to_json(), kind.to_json())
    if problem is not None:
        msg = f"--preprocess: input '{spec.input}': {problem}"
        hint = f"the input is {kind}; choose crop, resize, channels and layout to fit it"
        gray = fit_problem({**spec.to_json(), "channels": "gray"}, kind.to_json()) is None
        raise UsageError(msg, hint=f"the input is {kind}: add channels=gray" if gray else hint)


def fit_problem(spec: Mapping[str, Any], kind: Mapping[str, Any]) -> str | None:
    """What of a manifest's spec does not fit the input's type there; None if all does."""
    if kind["kind"] != "tensor" or spec["dtype"] != kind["dtype"]:
        return f"images become {spec['dtype']}, the input is {kind.get('dtype', kind['kind'])}"
    shape = kind["shape"]
    if shape is None:
        return None
    if len(shape) != 4:
        return f"images become tensors of rank 4, the input has rank {len(shape)}"
    size = spec["crop"] or spec["resize"]
    known = (size["height"], size["width"]) if size is not None and "height" in size else (None, None)
    count = 1 if spec["channels"] == "gray" else 3
    made = (None, count, *known) if spec["layout"] == "nchw" else (None, *known, count)
    for dim, side in zip(shape, made, strict=True):
        if isinstance(dim, int) and side is not None and dim != side:
            shown = ",".join("?" if s is None else str(s) for s in made)
            return f"images become [{shown}], the input is {shape}"
    return None


def _size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _size_json(size: Size) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _scale_text(scale: float) -> str:
    below = round(1 / scale) if 1e-9 < scale < 1 else 0
    return f"1/{below}" if below > 1 and 1 / below == scale else repr(scale)


def _scale(spec: Preprocess) -> float:
    return spec.scale if spec.scale is not None else 1.0 if spec.dtype == "uint8" else 1 / 255
