"""Scales, zero points, integer weights and biases, against what plain numpy says they must be."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.quantize.parameters import SMALLEST_SCALE, quantization_parameters
from edgebuild.quantize.weights import quantize_bias, quantize_weight, scales_for_bias, weight_limit

Array = np.ndarray[Any, Any]
TYPES = ("uint8", "int8", "uint16", "int16")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def there_and_back(x: Array, scale: float, zero: int, dtype: str) -> Array:
    """QuantizeLinear and DequantizeLinear in double precision."""
    info = np.iinfo(dtype)
    return (np.clip(np.rint(x / scale) + zero, info.min, info.max) - zero) * scale


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@given(
    low=st.floats(-(2.0**100), 0, allow_subnormal=False, width=32),
    high=st.floats(0, 2.0**100, allow_subnormal=False, width=32),
)
def test_a_range_is_covered_with_half_a_step_of_error_and_zero_is_exact(
    dtype: str, symmetric: bool, low: float, high: float
) -> None:
    found = quantization_parameters(low, high, dtype, symmetric=symmetric)
    scale, zero = float(found.scale), int(found.zero_point)
    info = np.iinfo(dtype)
    assert found.scale.dtype == np.float32
    assert found.zero_point.dtype == np.dtype(dtype)
    assert info.min <= zero <= info.max
    points = np.concatenate([np.linspace(low, high, 257), [0.0]])
    got = there_and_back(points, scale, zero, dtype)
    # The zero point is rounded, so an end may lie half a step outside: half a step there, plus half a step of rounding.
    assert np.all(np.abs(got - points) <= scale * 1.001)
    assert got[-1] == 0
    steps = (info.max - info.min) // 2 if symmetric else info.max - info.min
    widest = max(-low, high) if symmetric else high - low
    assert scale == pytest.approx(max(widest / steps, SMALLEST_SCALE), rel=1e-6)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 128), ("int8", 0), ("uint16", 32768), ("int16", 0)])
def test_symmetric_zero_points_are_in_the_middle(dtype: str, zero: int) -> None:
    assert int(quantization_parameters(-3.0, 1.0, dtype, symmetric=True).zero_point) == zero


@pytest.mark.parametrize(("low", "high", "zero"), [(0.5, 2.0, 0), (0.0, 2.0, 0), (-2.0, 0.0, 255), (-3.0, -1.0, 255)])
def test_ranges_on_one_side_of_zero_are_extended_to_it(low: float, high: float, zero: int) -> None:
    found = quantization_parameters(low, high, "uint8", symmetric=False)
    assert int(found.zero_point) == zero
    assert float(found.scale) == pytest.approx(max(high, -low) / 255)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (-1e-45, 1e-45), (0.0, 1e-38), (-FLOAT32_MAX, FLOAT32_MAX), (0.0, FLOAT32_MAX)]
)
def test_extreme_ranges_give_normal_scales_whose_integers_stay_finite(
    dtype: str, symmetric: bool, low: float, high: float
) -> None:
    found = quantization_parameters(low, high, dtype, symmetric=symmetric)
    assert np.isfinite(found.scale)
    assert found.scale >= np.finfo(np.float32).tiny
    info = np.iinfo(dtype)
    for integer in (info.min, info.max):
        assert np.isfinite((np.float32(integer) - np.float32(found.zero_point)) * found.scale)
    if high == FLOAT32_MAX:  # what is that large must not come out a thousand times smaller
        back = (np.float32(info.max) - np.float32(found.zero_point)) * found.scale
        assert back > FLOAT32_MAX / 3


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (2.0, 1.0)])
def test_ends_that_are_no_range_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite ends in order"):
        quantization_parameters(*ends, "uint8", symmetric=False)


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((7, 3, 3, 3), 0), ((5, 9), 1), ((5, 9), 0), ((1, 4), 0), ((6,), 0)])
def test_each_channel_has_the_scale_of_its_largest_weight(
    shape: tuple[int, ...], axis: int, reduce_range: bool
) -> None:
    weight = normal(shape) * np.geomspace(1e-3, 1e3, shape[axis]).reshape(
        [-1 if i == axis else 1 for i in range(len(shape))]
    ).astype(np.float32)
    found = quantize_weight(weight, axis, reduce_range=reduce_range)
    limit = 63 if reduce_range else 127
    assert weight_limit(reduce_range=reduce_range) == limit
    assert found.values.dtype == np.int8
    assert found.scales.dtype == np.float32
    assert found.scales.shape == (shape[axis],)
    assert found.axis == axis
    for channel in range(shape[axis]):
        part = np.take(weight, channel, axis).astype(np.float64)
        integers = np.take(found.values, channel, axis)
        scale = float(found.scales[channel])
        assert scale == pytest.approx(np.max(np.abs(part)) / limit, rel=1e-6)
        assert np.max(np.abs(integers.astype(int))) == limit
        np.testing.assert_array_less(np.abs(integers * scale - part), scale * 0.5001)
        np.testing.assert_allclose(np.take(found.dequantized(), channel, axis), integers * scale, rtol=1e-6)


def test_one_scale_for_all_channels_is_the_largest() -> None:
    weight = normal((4, 8))
    found = quantize_weight(weight, 0, per_channel=False)
    assert found.scales.shape == (1,)
    assert float(found.scales[0]) == pytest.approx(float(np.max(np.abs(weight))) / 127)
    np.testing.assert_array_less(np.abs(found.dequantized() - weight), float(found.scales[0]) * 0.5001)


def test_seven_bit_pairs_of_products_fit_sixteen_bits() -> None:
    weight = normal((4, 64), 3)
    values = quantize_weight(weight, 0, reduce_range=True).values.astype(int)
    pairs = 255 * (np.abs(values[:, ::2]) + np.abs(values[:, 1::2]))
    assert np.max(pairs) < 2**15


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e-30, 1.0, 1e30, 1e38])
def test_weights_of_any_size_give_normal_scales(magnitude: float, per_channel: bool) -> None:
    weight = np.full((3, 5), magnitude, np.float32)
    weight[1] *= -1
    found = quantize_weight(weight, 0, per_channel=per_channel)
    assert np.all(np.isfinite(found.scales))
    assert np.all(found.scales >= np.finfo(np.float32).tiny)
    # What is too small for a scale is gone; the rest is kept.
    np.testing.assert_allclose(found.dequantized(), weight, rtol=1e-6, atol=SMALLEST_SCALE * 128)


def test_no_channels_are_no_error() -> None:
    assert quantize_weight(np.zeros((0, 3), np.float32), 0).values.shape == (0, 3)


@pytest.mark.parametrize("zeros", [[1], [0, 1, 2]])
@pytest.mark.parametrize("data_scale", [1e-3, 1.0, 30.0])
def test_the_bias_of_a_channel_of_zeros_keeps_its_precision(zeros: list[int], data_scale: float) -> None:
    weight = normal((3, 10))
    weight[zeros] = 0
    bias = np.asarray([0.3, 0.123456, -0.7], np.float32)
    found = quantize_weight(weight, 0, smallest_scales=scales_for_bias(bias, data_scale))
    assert np.all(found.values[zeros] == 0)
    values, steps = quantize_bias(bias, data_scale, found.scales)
    others = np.delete(np.max(np.abs(weight), axis=1), zeros) / 127
    allowed = 0.51 * data_scale * (np.min(others) if others.size else 2**-20)
    assert np.max(np.abs(values * steps.astype(np.float64) - bias)) <= allowed + 1e-6


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_bias_that_would_overflow_gets_larger_weight_scales(per_channel: bool) -> None:
    weight = normal((4, 50)) * np.float32(1e-6)
    bias = np.asarray([1e4, -3e5, 0.0, 1e-3], np.float32)
    data_scale = 1e-4
    bounds = scales_for_bias(bias, data_scale)
    assert bounds is not None
    bounds = bounds if per_channel else np.max(bounds, keepdims=True)
    found = quantize_weight(weight, 0, per_channel=per_channel, smallest_scales=bounds)
    values, steps = quantize_bias(bias, data_scale, found.scales)
    assert values.dtype == np.int32
    assert steps.dtype == np.float32
    assert steps.shape == (4,)
    np.testing.assert_array_equal(steps, (np.float32(data_scale) * np.broadcast_to(found.scales, 4)).astype(np.float32))
    np.testing.assert_allclose(values * steps.astype(np.float64), bias, rtol=1e-6, atol=float(np.max(steps)) * 0.51)
    if per_channel:  # channels whose bias fits keep the fine scale
        assert float(found.scales[2]) == pytest.approx(float(np.max(np.abs(weight[2]))) / 127)
    error = np.abs(found.dequantized() - weight)
    assert np.all(error < np.broadcast_to(found.scales, 4).reshape(4, 1) * 0.5001)


def test_without_a_bias_no_scale_is_too_small() -> None:
    assert scales_for_bias(None, 0.1) is None


@given(
    magnitude=st.floats(2.0**-40, 2.0**40, width=32),
    weight=st.floats(0, 1e6, width=32),
    low=st.floats(-1e6, 0, width=32),
)
def test_biases_of_any_size_are_kept_to_a_millionth_or_half_a_step(magnitude: float, weight: float, low: float) -> None:
    bias = np.asarray([magnitude, -magnitude, 0.0], np.float32)
    data_scale = float(quantization_parameters(low, 1.0, "uint8", symmetric=False).scale)
    found = quantize_weight(np.full((3, 2), weight, np.float32), 0, smallest_scales=scales_for_bias(bias, data_scale))
    values, steps = quantize_bias(bias, data_scale, found.scales)
    assert np.all(steps > 0)
    error = np.abs(values * steps.astype(np.float64) - bias)
    assert np.all(error <= np.maximum(0.51 * steps.astype(np.float64), 1e-6 * np.abs(bias)))
    assert values[2] == 0


def test_zero_biases_beside_the_smallest_scales_are_zero() -> None:
    found = quantize_weight(np.full((2, 3), 1e-37, np.float32), 0)
    data_scale = float(quantization_parameters(0.0, 1e-40, "uint8", symmetric=False).scale)
    values, steps = quantize_bias(np.zeros(2, np.float32), data_scale, found.scales)
    assert values.tolist() == [0, 0]
    assert np.all(steps >= np.finfo(np.float32).tiny)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_activation_makes_the_sum_of_a_long_row_leave_32_bits(axis: int, per_channel: bool) -> None:
    depth = 140_000
    random = np.random.default_rng(0)
    rows = np.stack([np.ones(depth), random.uniform(0.5, 1, depth), random.standard_normal(depth)])
    weight = np.ascontiguousarray(rows if axis == 0 else rows.T, np.float32)
    found = quantize_weight(weight, axis, per_channel=per_channel)
    sums = np.abs(np.moveaxis(found.values, axis, 0).astype(np.int64)).sum(axis=1)
    assert sums.max() * 255 < 2**31
    assert np.all(np.abs(found.dequantized() - weight) <= found.scales.max() * 0.501)
    if per_channel:
        assert sums[0] * 255 > 0.9 * 2**31  # no coarser than it need be
        # a row of both signs and few large weights is as it would be if it were short
        assert found.scales[2] == pytest.approx(np.abs(rows[2]).max() / 127)
