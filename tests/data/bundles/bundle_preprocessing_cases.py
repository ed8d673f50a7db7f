"""Manifests with preprocessing, sound and broken, each with the exit code that every reader must give for it."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from bundle_parts import dump, sound_manifest

OK, CORRUPT = 0, 3
_REMOVED = object()

_IMAGE: dict[str, Any] = {
    "kind": "image",
    "resize": {"shorter": 9},
    "crop": {"height": 8, "width": 7},
    "interpolation": "bilinear",
    "channels": "rgb",
    "layout": "nchw",
    "dtype": "float32",
    "scale": 0.00392156862745098,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def image_manifest(dtype: str = "float32", shape: Any = ("batch", 3, 8, 7)) -> dict[str, Any]:
    """The sound manifest, with an input that takes images."""
    manifest = sound_manifest()
    shape = None if shape is None else list(shape)
    manifest["signature"]["inputs"][0]["type"] = {"kind": "tensor", "dtype": dtype, "shape": shape}
    manifest["preprocessing"] = {"inputs": {"x": copy.deepcopy(_IMAGE)}}
    return manifest


# Changes to the image's entry; the last word says whether a JSON Schema can know it.
_CHANGES: list[tuple[str, dict[str, Any], int, bool]] = [
    ("none", {}, OK, True),
    ("unknown-key", {"novelty": [1]}, OK, True),
    ("kind", {"kind": "audio"}, CORRUPT, True),
    ("kind-number", {"kind": 1}, CORRUPT, True),
    ("resize-null", {"resize": None}, OK, True),
    ("resize-exact", {"resize": {"height": 1, "width": 16384}}, OK, True),
    ("resize-exact-real", {"resize": {"height": 1.0, "width": 2}}, CORRUPT, False),
    ("resize-large", {"resize": {"height": 1, "width": 16385}}, CORRUPT, True),
    ("resize-zero", {"resize": {"shorter": 0}}, CORRUPT, True),
    ("resize-shorter-large", {"resize": {"shorter": 16385}}, CORRUPT, True),
    ("resize-true", {"resize": {"shorter": True}}, CORRUPT, True),
    ("resize-number", {"resize": 256}, CORRUPT, True),
    ("resize-half", {"resize": {"height": 8}}, CORRUPT, True),
    ("resize-both", {"resize": {"shorter": 8, "width": 8}}, CORRUPT, True),
    ("resize-unknown-key", {"resize": {"shorter": 8, "longer": 9}}, OK, True),
    ("resize-empty", {"resize": {}}, CORRUPT, True),
    ("crop-null", {"crop": None}, OK, True),
    ("crop-list", {"crop": [8, 7]}, CORRUPT, True),
    ("crop-other-size", {"crop": {"height": 7, "width": 7}}, CORRUPT, False),
    ("resize-other-size", {"crop": None, "resize": {"height": 7, "width": 7}}, CORRUPT, False),
    ("resize-other-size-cropped", {"resize": {"height": 70, "width": 70}}, OK, True),
    ("interpolation-bicubic", {"interpolation": "bicubic"}, OK, True),
    ("interpolation-nearest", {"interpolation": "nearest"}, CORRUPT, True),
    ("channels-bgr", {"channels": "bgr"}, OK, True),
    ("channels-gray", {"channels": "gray", "mean": [0], "std": [1]}, CORRUPT, False),
    ("channels-case", {"channels": "RGB"}, CORRUPT, True),
    ("layout-nhwc", {"layout": "nhwc"}, CORRUPT, False),
    ("layout-null", {"layout": None}, CORRUPT, True),
    ("dtype-other", {"dtype": "float16"}, CORRUPT, False),
    ("dtype-int8", {"dtype": "int8"}, CORRUPT, True),
    ("dtype-unknown", {"dtype": "float"}, CORRUPT, True),
    ("scale-integer", {"scale": 1}, OK, True),
    ("scale-zero", {"scale": 0}, CORRUPT, True),
    ("scale-negative", {"scale": -0.5}, CORRUPT, True),
    ("scale-text", {"scale": "1/255"}, CORRUPT, True),
    ("scale-true", {"scale": True}, CORRUPT, True),
    ("mean-negative", {"mean": [-1e30, 0, 1]}, OK, True),
    ("mean-two", {"mean": [0, 0]}, CORRUPT, False),
    ("mean-one", {"mean": [0.5]}, CORRUPT, False),
    ("mean-four", {"mean": [0, 0, 0, 0]}, CORRUPT, True),
    ("mean-null", {"mean": [0, 0, None]}, CORRUPT, True),
    ("mean-number", {"mean": 0.5}, CORRUPT, True),
    ("std-zero", {"std": [1, 0, 1]}, CORRUPT, True),
    ("std-negative", {"std": [1, -1, 1]}, CORRUPT, True),
    ("std-beyond-float32", {"std": [1e-300, 1, 1]}, CORRUPT, False),
    ("mean-beyond-float32", {"mean": [1e39, 1, 1]}, CORRUPT, False),
    ("mean-and-std-beyond-binary64", {"mean": [1e308, 1, 1], "std": [1e-308, 1, 1]}, CORRUPT, False),
    ("scale-beyond-float32", {"scale": 1e308}, CORRUPT, False),
    ("scale-large", {"scale": 1e36, "mean": [0, 0, 0], "std": [1, 1, 1]}, OK, True),
    ("uint8-not-neutral", {"dtype": "uint8"}, CORRUPT, False),
]

# Other signatures: dtype and shape of the input, changes, exit code.
_FITS: list[tuple[str, str, Any, dict[str, Any], int]] = [
    ("any-rank", "float32", None, {}, OK),
    ("unknown-sizes", "float32", (None, "c", None, "w"), {}, OK),
    ("rank-3", "float32", (3, 8, 7), {}, CORRUPT),
    ("rank-5", "float32", (1, 1, 3, 8, 7), {}, CORRUPT),
    ("batch-of-any-size", "float32", (64, 3, 8, 7), {}, OK),
    ("gray", "float32", (1, 1, 8, 7), {"channels": "gray", "mean": [0.1], "std": [0.2]}, OK),
    ("gray-for-rgb", "float32", (1, 1, 8, 7), {}, CORRUPT),
    ("nhwc", "float32", (1, 8, 7, 3), {"layout": "nhwc"}, OK),
    ("nhwc-for-nchw", "float32", (1, 8, 7, 3), {}, CORRUPT),
    ("size-not-known-before", "float32", (1, 3, 5, 5), {"crop": None}, OK),
    ("half", "float16", (1, 3, 8, 7), {"dtype": "float16"}, OK),
    ("uint8", "uint8", (1, 3, 8, 7), {"dtype": "uint8", "scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}, OK),
    ("uint8-for-float", "uint8", (1, 3, 8, 7), {}, CORRUPT),
    ("int8-dtype-of-both", "int8", (1, 3, 8, 7), {"dtype": "int8"}, CORRUPT),
]


def changed(changes: dict[str, Any], dtype: str = "float32", shape: Any = ("batch", 3, 8, 7)) -> dict[str, Any]:
    manifest = image_manifest(dtype, shape)
    entry = manifest["preprocessing"]["inputs"]["x"]
    for key, value in changes.items():
        if value is _REMOVED:
            del entry[key]
        else:
            entry[key] = value
    return manifest


def preprocessing_manifests() -> Iterator[tuple[str, dict[str, Any], int, bool]]:
    """Name, manifest, exit code, and whether a JSON Schema can know it."""
    for name, changes, code, schema in _CHANGES:
        yield f"preprocessing-{name}", changed(changes), code, schema
    for name, dtype, shape, changes, code in _FITS:
        yield f"preprocessing-fits-{name}", changed(changes, dtype, shape), code, code == OK or name.startswith("int8")
    for key in _IMAGE:
        yield f"preprocessing-without-{key}", changed({key: _REMOVED}), CORRUPT, True
    entry = copy.deepcopy(_IMAGE)
    for name, value, code, schema in (
        ("empty", {}, CORRUPT, True),
        ("no-input", {"inputs": {}}, CORRUPT, True),
        ("inputs-list", {"inputs": [entry]}, CORRUPT, True),
        ("input-unknown", {"inputs": {"y": entry}}, CORRUPT, False),
        ("input-not-an-image", {"inputs": {"words": entry}}, CORRUPT, False),
        ("input-text", {"inputs": {"x": "imagenet"}}, CORRUPT, True),
        ("unknown-key-beside", {"inputs": {"x": entry}, "outputs": 3}, OK, True),
    ):
        yield f"preprocessing-{name}", {**image_manifest(), "preprocessing": value}, code, schema
    manifest = image_manifest()
    sequence = {"kind": "sequence", "element": manifest["signature"]["inputs"][0]["type"]}
    manifest["signature"]["inputs"][0]["type"] = sequence
    yield "preprocessing-of-a-sequence", manifest, CORRUPT, False


def preprocessing_cases() -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes of ``manifest.json`` and exit code."""
    for name, manifest, code, _ in preprocessing_manifests():
        yield name, dump(manifest), code
    sound = json.dumps(image_manifest()).encode()
    for name, spelling, code in (
        ("exponent", b"1e-2", OK),
        ("too-small", b"1e-400", CORRUPT),
        ("beyond", b"1e309", CORRUPT),
    ):
        yield f"preprocessing-scale-{name}", sound.replace(b"0.00392156862745098", spelling), code
