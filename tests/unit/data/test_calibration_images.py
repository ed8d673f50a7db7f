"""Calibration with images: what is decoded, and that it is what the runner makes of the same images."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_tools import TEXT, opened, signature, stacked, staged
from PIL import Image

from edgebuild.cache import Cache
from edgebuild.data import images
from edgebuild.data.preprocess import Preprocess, parse_preprocess
from edgebuild.errors import CalibrationError, ToolError

NET = signature(("x", "float32", (1, 3, 16, 16)))
TEXT_FORM = "resize=20,crop=16,mean=0.5;0.4;0.3,std=0.2"


def pictures(folder: Path, count: int = 4, suffix: str = "png") -> list[np.ndarray[Any, Any]]:
    made = []
    for index in range(count):
        rng = np.random.default_rng(index)
        made.append(rng.integers(0, 256, (20 + index, 31 - index, 3), dtype=np.uint8))
        Image.fromarray(made[-1]).save(folder / f"{index}.{suffix}")
    return made


def spec(text: str = TEXT_FORM) -> Preprocess:
    return parse_preprocess(text).resolved(NET)


def test_a_folder_of_images_gives_what_preprocessing_makes_of_them(tmp_path: Path, cache: Cache) -> None:
    want = [spec().apply(picture) for picture in pictures(tmp_path)]
    data = opened(tmp_path, NET, cache, preprocess=TEXT_FORM)
    assert data.count == 4
    assert data.description == f"4 samples from {tmp_path}/*.png"
    for _ in range(2):
        np.testing.assert_array_equal(stacked(data), np.concatenate(want))
    data.close()
    assert not staged(cache)


def test_images_in_one_folder_a_class_are_found(tmp_path: Path, cache: Cache) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        pictures(tmp_path / name, 3, "jpg")
    data = opened(tmp_path, NET, cache, preprocess=spec(), max_samples=2)
    assert data.count == 2
    assert "2 of 6 files are used, evenly spaced" in data.notes[0]


def test_images_of_other_sizes_than_the_models_are_told_how_to_come_to_it(tmp_path: Path, cache: Cache) -> None:
    pictures(tmp_path)
    for shape, layout in (((1, 3, 16, 12), "nchw"), ((1, 16, 12, 3), "nhwc")):
        net = signature(("x", "float32", shape))
        with pytest.raises(CalibrationError, match="got float32") as caught:
            opened(tmp_path, net, cache, preprocess=f"layout={layout},mean=0.5,std=0.5")
        assert "resize=16x12" in str(caught.value.hint)


def test_a_larger_fixed_batch_is_gathered(tmp_path: Path, cache: Cache) -> None:
    want = [spec().apply(picture) for picture in pictures(tmp_path, 5)]
    data = opened(tmp_path, signature(("x", "float32", (2, 3, 16, 16))), cache, preprocess=parse_preprocess(TEXT_FORM))
    assert [batch["x"].shape for batch in data.batches()] == [(2, 3, 16, 16)] * 2
    np.testing.assert_array_equal(stacked(data), np.concatenate(want[:4]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_modes_of_images_become_rgb_as_in_pillow(tmp_path: Path, cache: Cache, mode: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.tiff")
    want = spec().apply(np.asarray(picture.convert("RGB")))
    np.testing.assert_array_equal(stacked(opened(tmp_path / "a.tiff", NET, cache, preprocess=spec())), want)


@pytest.mark.parametrize("form", ["npy", "npz", "stream", "stack", "gray"])
def test_decoded_images_from_elsewhere_are_preprocessed_too(tmp_path: Path, cache: Cache, form: str) -> None:
    rng = np.random.default_rng(0)
    decoded = rng.integers(0, 256, (3, 30, 40, 3) if form != "gray" else (3, 30, 40), dtype=np.uint8)
    source: Any = {"stream": (i for i in decoded), "gray": list(decoded), "stack": decoded}.get(form)
    if form == "npy":
        source = tmp_path / "all.npy"
        np.save(source, decoded)
    elif form == "npz":
        source = tmp_path / "data"
        source.mkdir()
        for index, image in enumerate(decoded):
            np.savez(source / f"{index}.npz", x=image)
    want = np.concatenate([spec().apply(image) for image in decoded])
    data = opened(source, NET, cache, preprocess=parse_preprocess(TEXT_FORM))
    assert data.count == 3
    np.testing.assert_array_equal(stacked(data), want)


def test_images_without_preprocessing_are_refused(tmp_path: Path, cache: Cache) -> None:
    pictures(tmp_path)
    with pytest.raises(CalibrationError, match=r"holds images, e\.g\. 0\.png.*--preprocess imagenet"):
        opened(tmp_path, NET, cache)
    with pytest.raises(CalibrationError, match="images need the preprocessing of the training: --preprocess"):
        opened([np.zeros((1, 3, 16, 16), np.uint8)], NET, cache)


def test_images_that_are_none_are_refused_by_name(tmp_path: Path, cache: Cache) -> None:
    pictures(tmp_path)
    data = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[:300])
    with pytest.raises(CalibrationError, match=r"2\.png: not an image that Pillow can decode"):
        opened(tmp_path, NET, cache, preprocess=spec())
    assert not staged(cache)


def test_arrays_that_are_no_images_are_refused(cache: Cache) -> None:
    with pytest.raises(CalibrationError, match=r"batch 0 of the list: input 'x': expected decoded images.*got float32"):
        opened([np.zeros((1, 3, 16, 16), np.float32)], NET, cache, preprocess=spec())
    with pytest.raises(CalibrationError, match="expected 1, 3 or 4 channels, got 16"):
        opened([np.zeros((1, 3, 16, 16), np.uint8)], NET, cache, preprocess=spec())


def test_images_for_a_model_with_other_inputs_are_refused(tmp_path: Path, cache: Cache) -> None:
    pictures(tmp_path)
    both = signature(("x", "float32", (1, 3, 16, 16)), ("n", "int64", (1,)))
    with pytest.raises(CalibrationError, match="images give input 'x' only, the model takes x, n"):
        opened(tmp_path, both, cache, preprocess=parse_preprocess(TEXT_FORM))
    data = opened([{"x": np.zeros((20, 20, 3), np.uint8), "n": np.zeros(1, np.int64)}], both, cache, preprocess=spec())
    assert [batch["x"].shape for batch in data.batches()] == [(1, 3, 16, 16)]
    with pytest.raises(CalibrationError, match=r"--preprocess|several kinds|no \.npy"):
        opened(tmp_path, TEXT, cache)


def test_a_missing_pillow_names_the_extra(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ToolError, match=r"needs Pillow.*pip install 'edgebuild\[images\]'"):
        opened(tmp_path, NET, cache, preprocess=spec())


def test_images_are_decoded_once(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path)
    seen: list[Path] = []
    decode = images.decode

    def counting(file: Path) -> np.ndarray[Any, Any]:
        seen.append(file)
        return decode(file)

    monkeypatch.setattr(images, "decode", counting)
    data = opened(tmp_path, NET, cache, preprocess=spec())
    for _ in range(3):
        assert len(list(data.batches())) == 4
    assert len(seen) == 4
