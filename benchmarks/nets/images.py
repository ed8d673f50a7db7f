"""Seeded images with the statistics of photographs: power that falls with frequency, correlated colours, edges, light."""

import numpy as np
from numpy.typing import NDArray

from nets.net import Feed, HeldOut, feeds_of

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

# Streams of seeds: what settles batch norms, calibrates and judges never shares an image.
SETTLING, CALIBRATION, HELD_OUT = 1, 2, 3


def images(count: int, size: int, stream: int) -> NDArray[np.float32]:
    """``count`` images (N, 3, size, size), normalised with ImageNet's mean and deviation."""
    return np.stack([_image(np.random.default_rng([stream, index, size]), size) for index in range(count)])


def calibration(size: int, count: int) -> list[Feed]:
    """Feeds of input ``x`` to calibrate with."""
    return list(feeds_of("x", images(count, size, CALIBRATION)))


def held_out(size: int, count: int) -> HeldOut:
    """Feeds of input ``x`` to judge by."""
    return HeldOut(feeds=feeds_of("x", images(count, size, HELD_OUT)))


def _image(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    # Amplitude 1/f (Field, 1987); natural images lie between exponents of 0.8 and 1.5.
    luminance = _coloured_noise(rng, size, rng.uniform(0.8, 1.5))
    tints = np.stack([_coloured_noise(rng, size, 1.2) for _ in range(3)])
    colour = rng.uniform(0.2, 0.8, 3)[:, None, None]
    picture = colour + 0.18 * luminance + 0.06 * tints
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    picture += rng.uniform(0, 0.5) * (np.cos(angle) * x + np.sin(angle) * y)
    for _ in range(rng.integers(2, 9)):
        picture = _with_shape(rng, picture, x, y)
    contrast, light = rng.uniform(0.5, 1.3), rng.uniform(-0.15, 0.15)
    picture = np.clip((picture - 0.5) * contrast + 0.5 + light, 0, 1)
    pixels = np.round(picture * 255).astype(np.float32) / 255  # what a camera's 8 bits leave
    normalised: NDArray[np.float32] = (pixels - MEAN[:, None, None]) / STD[:, None, None]
    return normalised


def _coloured_noise(rng: np.random.Generator, size: int, exponent: float) -> NDArray:
    """Noise (size, size) with mean 0 and deviation 1 whose amplitude falls as frequency to the ``exponent``."""
    vertical, horizontal = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.hypot(vertical, horizontal)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**exponent
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    scaled: NDArray = noise / noise.std()
    return scaled


def _with_shape(rng: np.random.Generator, picture: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """The picture with one ellipse or box in front of it, of one colour with a little of the ground's texture."""
    centre_x, centre_y = rng.uniform(-0.5, 0.5, 2)
    width, height = rng.uniform(0.03, 0.35, 2)
    angle = rng.uniform(0, np.pi)
    across = (np.cos(angle) * (x - centre_x) + np.sin(angle) * (y - centre_y)) / width
    along = (np.cos(angle) * (y - centre_y) - np.sin(angle) * (x - centre_x)) / height
    inside = across**2 + along**2 < 1 if rng.random() < 0.5 else np.maximum(abs(across), abs(along)) < 1
    colour = rng.uniform(0, 1, 3)[:, None, None] + 0.3 * (picture - picture.mean((1, 2), keepdims=True))
    return np.where(inside, colour, picture)
