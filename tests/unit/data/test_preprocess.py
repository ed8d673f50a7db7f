"""Preprocessing against independent references: Pillow with torchvision's arithmetic, torch's antialiased interpolation."""

from typing import Any

import numpy as np
import pytest
from calibration_tools import signature
from PIL import Image

from edgebuild.data.image_spec import Preprocess
from edgebuild.data.preprocess import PRESETS, parse_preprocess
from edgebuild.errors import SignatureError, UsageError

ANY = signature(("x", "float32", ("n", None, None, None)))
Array = np.ndarray[Any, Any]

SIZES = [(375, 500), (500, 375), (257, 300), (256, 256), (64, 64), (31, 97), (1, 1), (5, 1000), (3, 2)]


def noise(height: int, width: int, channels: int | None = 3, seed: int = 0) -> Array:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> Array:
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin(x / 7 + c) * np.cos(y / 11) for c in range(3)]
    return np.stack(planes, axis=-1).astype(np.uint8)


def by_pillow(image: Array, size: tuple[int, int], name: str) -> Array:
    mode = Image.Resampling.BICUBIC if name == "bicubic" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), mode))


def center_crop(image: Array, height: int, width: int) -> Array:
    """As torchvision documents it: padded with zeros, then cut at ``round(half the difference)``."""
    down, across = max(0, height - image.shape[0]), max(0, width - image.shape[1])
    image = np.pad(image, ((down // 2, (down + 1) // 2), (across // 2, (across + 1) // 2), (0, 0)))
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]


def grey_levels(text: str, image: Array) -> Array:
    """What becomes of an image before its values are scaled: (H, W, C)."""
    spec = parse_preprocess(f"{text},layout=nhwc,dtype=uint8")
    return spec.resolved(signature(("x", "uint8", (None, None, None, None)))).apply(image)[0]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [noise, smooth])
def test_resizing_is_pillows(interpolation: str, size: tuple[int, int], make: Any) -> None:
    image = make(*size)
    for target in ((224, 224), (17, 301), (1, 1), size):
        got = grey_levels(f"resize={target[0]}x{target[1]},interpolation={interpolation}", image)
        want = by_pillow(image, target, interpolation)
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
        # In fact it is the same number nearly everywhere: only a weight's last bit may differ.
        assert np.mean(got != want) < 0.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", [(128, 96), (30, 41), (400, 301)])
def test_resizing_is_torchs_antialiased_interpolation(interpolation: str, target: tuple[int, int]) -> None:
    import torch

    image = smooth(257, 190)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    want = torch.nn.functional.interpolate(planes, target, mode=interpolation, antialias=True, align_corners=False)
    got = grey_levels(f"resize={target[0]}x{target[1]},interpolation={interpolation}", image)
    assert np.abs(got - want[0].permute(1, 2, 0).clamp(0, 255).round().numpy()).max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", ["imagenet", "inception", "clip"])
def test_presets_do_what_torchvision_does(size: tuple[int, int], preset: str) -> None:
    image = noise(*size)
    spec = parse_preprocess(preset).resolved(ANY)
    assert isinstance(spec.resize, int)
    short = min(size)
    full = (int(spec.resize * size[0] / short), int(spec.resize * size[1] / short))
    cropped = center_crop(by_pillow(image, full, spec.interpolation), 224, 224)
    scaled = cropped.astype(np.float32) / np.float32(255)
    want = (scaled - np.float32(spec.mean)) / np.float32(spec.std)
    got = spec.apply(image)
    assert got.dtype == np.float32
    assert got.shape == (1, 3, 224, 224)
    level = 1 / 255 / min(spec.std)
    difference = np.abs(got[0].transpose(1, 2, 0) - want)
    assert difference.max() <= level * 1.01
    assert np.mean(difference > 1e-6) < 0.001


@pytest.mark.parametrize("size", [(3, 7), (7, 3), (8, 8), (9, 5), (20, 20), (1, 30), (11, 13)])
def test_crops_are_torchvisions(size: tuple[int, int]) -> None:
    image = noise(*size)
    for height, width in ((8, 8), (4, 5), (9, 12), (1, 1)):
        np.testing.assert_array_equal(grey_levels(f"crop={height}x{width}", image), center_crop(image, height, width))


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("wanted", ["rgb", "bgr", "gray"])
def test_colours_are_pillows(channels: int | None, wanted: str) -> None:
    image = noise(9, 11, channels)
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    if wanted == "gray":
        want = np.asarray(picture.convert("L"))[..., None]
    else:
        want = np.asarray(picture.convert("RGB"))[..., :: -1 if wanted == "bgr" else 1]
    np.testing.assert_array_equal(grey_levels(f"channels={wanted}", image), want)


def test_float16_is_numpys() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    text = "mean=0.485;0.456;0.406,std=0.229;0.224;0.225"
    single = parse_preprocess(text).resolved(ANY).apply(image)
    half = parse_preprocess(f"{text},dtype=float16").resolved(signature(("x", "float16", None))).apply(image)
    np.testing.assert_array_equal(half, single.astype(np.float16))
    exact = (np.arange(256)[:, None] * (1 / 255) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_array_equal(single[0].reshape(3, 256).T, exact.astype(np.float32))


def test_a_stack_of_images_is_a_batch() -> None:
    spec = parse_preprocess("resize=12,crop=8").resolved(ANY)
    images = np.stack([noise(20, 30, seed=i) for i in range(4)])
    want = np.concatenate([spec.apply(image) for image in images])
    np.testing.assert_array_equal(spec.apply(images), want)
    np.testing.assert_array_equal(
        spec.apply(images[:, :, ::-1]), np.concatenate([spec.apply(i[:, ::-1]) for i in images])
    )
    assert spec.apply(images[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 4, 3), np.float32), "expected decoded images as uint8, got float32"),
        (np.zeros((4, 4, 2), np.uint8), "expected 1, 3 or 4 channels, got 2"),
        (np.zeros((0, 4, 3), np.uint8), "sides from 1"),
        (np.zeros(4, np.uint8), "got rank 1"),
        (np.zeros((1, 1, 4, 4, 3), np.uint8), "got rank 5"),
    ],
)
def test_what_is_no_image_is_refused(image: Array, text: str) -> None:
    with pytest.raises(SignatureError, match=text):
        parse_preprocess("imagenet").resolved(ANY).apply(image)


# The text form


@pytest.mark.parametrize(
    "text",
    [
        "resize=256,crop=224,mean=0.485;0.456;0.406,std=0.229;0.224;0.225",
        "resize=256, crop=224, mean=[0.485, 0.456, 0.406], std=(0.229, 0.224, 0.225), scale=1/255",
        "resize=256,center_crop=(224,224),interp=bilinear,mean=0.485,0.456,0.406,std=0.229,0.224,0.225,order=rgb",
        "imagenet",
        "imagenet,resize=256,crop=224x224",
        "x: imagenet",
        "x:IMAGENET",
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    assert parse_preprocess(text).resolved(ANY) == parse_preprocess("x: imagenet").resolved(ANY)


@pytest.mark.parametrize(
    "text",
    [
        *PRESETS,
        "resize=3x5",
        "channels=gray,mean=0.1,std=0.3",
        "scale=0.017,crop=9",
        "none,channels=bgr,mean=103.94;116.78;123.68",
    ],
)
def test_text_and_json_round_trip(text: str) -> None:
    spec = parse_preprocess(text).resolved(ANY)
    assert parse_preprocess(str(spec)) == spec
    assert Preprocess.from_json("x", spec.to_json()) == spec


@pytest.mark.parametrize(
    "text",
    [
        "imagenet",
        "x: clip",
        "imagenet,mean=0.5,std=0.25",
        "clip,interpolation=bilinear,dtype=float16",
        "imagenet,layout=nhwc",
    ],
)
def test_a_presets_text_keeps_what_was_changed_in_it_and_that_its_sizes_follow_the_models(text: str) -> None:
    spec = parse_preprocess(text)
    assert parse_preprocess(str(spec)) == spec
    if "=" not in text:
        assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither a preset"),
        ("imagnet", "did you mean 'imagenet'"),
        ("resise=3", "unknown key 'resise'.*did you mean 'resize'"),
        ("resize=0", "resize: expected sides from 1 to 16384"),
        ("resize=16385", "resize"),
        ("resize=-1", "expected a number of pixels"),
        ("resize=1x2x3", "expected a number of pixels"),
        ("resize=²", "expected a number of pixels"),
        ("crop=a", "expected a number of pixels"),
        ("resize=1,resize=2", "given twice"),
        ("interpolation=bicubc", "did you mean 'bicubic'"),
        ("channels=cmyk", "expected rgb, bgr, gray"),
        ("dtype=int8", "expected float32, float16, uint8"),
        ("mean=0.5;0.5", "mean: expected 3 numbers for channels=rgb, got 2"),
        ("channels=gray,mean=0.1;0.2;0.3", "mean: expected 1 numbers"),
        ("mean=nan", "mean: expected finite"),
        ("std=0", "std: expected numbers above 0"),
        ("std=1/0", "expected numbers"),
        ("scale=0", "scale: expected a number above 0"),
        ("scale=1;2", "expected one number"),
        ("scale=inf", "scale"),
        ("std=1e-300", "beyond float32"),
        ("dtype=uint8,mean=0.5", "uint8: expected scale 1"),
        ("mean=123.675,std=58.395", "pixels from 0 to 255.*write scale=1"),
        (": imagenet", "input's name"),
    ],
)
def test_what_can_not_be_meant_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_preprocess(text)


@pytest.mark.parametrize(
    ("text", "inputs", "problem"),
    [
        ("imagenet", [("a", "int64", (1, 4))], "no input of the model takes images"),
        ("imagenet", [("a", "float32", (1, 3, 8, 8)), ("b", "float32", (1, 3, 8, 8))], "several inputs.*a, b"),
        ("c: imagenet", [("a", "float32", (1, 3, 8, 8))], "no tensor input 'c'"),
        (
            "crop=8",
            [("a", "float32", (1, 1, 8, 8))],
            r"images become \[\?,3,8,8\], the input is \[1, 1, 8, 8\] .*: add channels=gray",
        ),
        ("crop=7", [("a", "float32", (1, 3, 8, 8))], r"images become \[\?,3,7,7\]"),
        ("a: crop=8", [("a", "float32", (1, 8))], "rank 4, the input has rank 2"),
        ("dtype=float16", [("a", "float32", (1, 3, 8, 8))], "images become float16, the input is float32"),
        ("layout=nhwc", [("a", "float32", (1, 3, 8, 8))], r"images become \[\?,\?,\?,3\]"),
    ],
)
def test_what_does_not_fit_the_signature_is_refused(text: str, inputs: list[Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_preprocess(text).resolved(signature(*inputs))


def test_the_signature_fills_in_what_was_not_said() -> None:
    spec = parse_preprocess("imagenet").resolved(signature(("img", "float16", (1, 160, 192, 3)), ("n", "int64", (1,))))
    assert (spec.input, spec.layout, spec.dtype) == ("img", "nhwc", "float16")
    assert (spec.crop, spec.resize) == ((160, 192), 256 * 160 // 224)
    said = parse_preprocess("imagenet,crop=160x192").resolved(signature(("img", "float32", (1, 3, 160, 192))))
    assert said.resize == 256
    assert parse_preprocess("crop=8").resolved(signature(("a", "uint8", (1, 3, 8, 8)))).scale == 1.0
