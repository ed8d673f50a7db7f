"""Calibration data that are not like those in use: what is noticed, and what is not."""

from typing import Any

import numpy as np
import pytest

from edgebuild.explain.shift import find_shift

Array = np.ndarray[Any, Any]


def photographs(count: int, seed: int) -> list[dict[str, Array]]:
    """Images of 3 channels with unequal means, each of another brightness."""
    rng = np.random.default_rng(seed)
    means = np.array([0.6, 0.4, 0.25])[:, None, None] * rng.uniform(0.8, 1.2, (count, 1, 1, 1))
    images = means + 0.15 * rng.standard_normal((count, 3, 16, 16))
    return [{"x": image[None].astype(np.float32)} for image in np.clip(images, 0, 1)]


def changed(batches: list[dict[str, Array]], change: Any) -> list[dict[str, Array]]:
    return [{name: np.ascontiguousarray(change(array)) for name, array in batch.items()} for batch in batches]


@pytest.mark.parametrize("seed", range(20))
def test_two_halves_of_the_same_data_are_alike(seed: int) -> None:
    assert find_shift(photographs(24, seed), photographs(8, 100 + seed)) is None


@pytest.mark.parametrize("factor", [255.0, 1 / 255, 3.0])
def test_another_scale_is_found_and_the_larger_side_named(factor: float) -> None:
    found = find_shift(changed(photographs(16, 1), lambda a: a * np.float32(factor)), photographs(8, 2))
    assert found is not None
    assert (found.kind, found.input) == ("scale", "x")
    assert ("calibration values" if factor > 1 else "held-out values") in found.text
    assert ("0 to 255" in found.text) == (factor != 3.0)


def test_bgr_for_rgb_is_called_by_its_name() -> None:
    found = find_shift(changed(photographs(16, 1), lambda a: a[:, ::-1]), photographs(8, 2))
    assert found is not None
    assert found.kind == "channels"
    assert "BGR" in found.text


def test_channels_last_are_looked_at_too() -> None:
    last = changed(photographs(16, 1), lambda a: a.transpose(0, 2, 3, 1)[..., [1, 0, 2]])
    found = find_shift(last, changed(photographs(8, 2), lambda a: a.transpose(0, 2, 3, 1)))
    assert found is not None
    assert found.kind == "channels"
    assert "1, 0, 2" in found.text


def test_darker_images_are_another_distribution() -> None:
    found = find_shift(changed(photographs(16, 1), lambda a: a - np.float32(0.2)), photographs(8, 2))
    assert found is not None
    assert found.kind == "distribution"
    assert "mean" in found.text


def test_equal_channels_in_another_order_are_no_shift() -> None:
    rng = np.random.default_rng(0)
    noise = [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(32)]
    assert find_shift(changed(noise[:16], lambda a: a[:, ::-1]), noise[16:]) is None


def test_integers_and_inputs_without_data_say_nothing() -> None:
    tokens = [{"ids": np.arange(12).reshape(1, 12)} for _ in range(8)]
    assert find_shift(tokens, [{"ids": batch["ids"] * 100} for batch in tokens]) is None
    assert find_shift([], photographs(2, 0)) is None
    assert find_shift(photographs(2, 0), []) is None


def test_data_of_nothing_but_zeros_differ_from_others() -> None:
    found = find_shift(changed(photographs(8, 1), np.zeros_like), photographs(8, 2))
    assert found is not None
    assert "all calibration values" in found.text
    zeros = changed(photographs(8, 1), np.zeros_like)
    assert find_shift(zeros, zeros) is None
