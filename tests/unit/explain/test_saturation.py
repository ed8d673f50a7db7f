"""Saturating sums of pairs, against the instruction written out one product at a time."""

from dataclasses import replace

import numpy as np
import pytest
from explain_tools import U8S8, Array
from test_values import layer_of

from edgebuild.explain.saturation import may_saturate, saturation_noise
from edgebuild.quantize.parameters import Parameters

RNG = np.random.default_rng(5)


def pmaddubsw_sums(row: Array, column: Array, zero: int) -> tuple[float, float, int]:
    """(exact, saturated, pairs that saturate) of one dot product of uint8 with int8."""
    exact = saturated = 0
    count = 0
    for at in range(0, len(row), 2):
        pair = int(row[at]) * int(column[at])
        pair += int(row[at + 1]) * int(column[at + 1]) if at + 1 < len(row) else 0
        kept = max(-32768, min(32767, pair))
        count += kept != pair
        exact += pair
        saturated += kept
    offset = zero * int(column.astype(np.int64).sum())
    return exact - offset, saturated - offset, count


@pytest.mark.parametrize(("depth", "zero"), [(16, 0), (15, 128), (1, 7)])
def test_a_product_loses_what_the_instruction_loses(depth: int, zero: int) -> None:
    integers = RNG.choice([-127, 127, 90, -3], (depth, 5))
    integers[0] = 127  # so that the scale of every channel is 1
    rows = RNG.integers(0, 256, (20, depth))
    data = (rows - zero).astype(np.float32)
    noise, share = saturation_noise(
        layer_of(integers.astype(np.float64), "matmul"),
        data,
        Parameters(scale=np.float32(1), zero_point=np.uint8(zero)),
        U8S8,
    )
    sums = [pmaddubsw_sums(row, column, zero) for row in rows for column in integers.T]
    exact, saturated, count = (np.array(part, np.float64) for part in zip(*sums, strict=True))
    assert noise == pytest.approx(float(np.sum((exact - saturated) ** 2) / np.sum(exact**2)))
    assert share == pytest.approx(count.sum() / (len(sums) * ((depth + 1) // 2)))
    assert (noise > 0) == (depth > 1)


def test_a_convolution_pairs_neighbouring_channels() -> None:
    weight = np.zeros((1, 4, 1, 1))
    weight[0, :, 0, 0] = (127, 127, 127, -127)  # the first pair saturates, the second cancels
    data = np.full((1, 4, 3, 3), 255, np.float32)
    unit = Parameters(scale=np.float32(1), zero_point=np.uint8(0))
    noise, share = saturation_noise(layer_of(weight, "conv"), data, unit, U8S8)
    assert share == 0.5
    assert noise == pytest.approx(((64770 - 32767) / 64770) ** 2)


def test_depthwise_convolutions_and_small_weights_do_not_saturate() -> None:
    unit = Parameters(scale=np.float32(1), zero_point=np.uint8(0))
    data = np.full((1, 4, 5, 5), 255, np.float32)
    assert saturation_noise(layer_of(np.full((4, 1, 3, 3), 127.0), "conv"), data, unit, U8S8) == (0, 0)
    spread = np.full((2, 4, 1, 1), 1.0)
    spread[:, 0] = 127
    assert saturation_noise(layer_of(spread, "conv"), data, unit, U8S8)[1] == 0
    assert saturation_noise(layer_of(np.full((4, 4, 9, 9), 127.0), "conv"), data, unit, U8S8) == (0, 0)


def test_only_eight_bit_weights_without_vnni_on_x86_may_saturate() -> None:
    plain = replace(U8S8, cpu_features=())
    assert may_saturate(plain, "x86_64")
    assert may_saturate(replace(U8S8, cpu_features=("avx2",)), "x86_64")
    for scheme, arch in (
        (U8S8, "x86_64"),
        (replace(U8S8, cpu_features=("avx2", "avx_vnni")), "x86_64"),
        (replace(plain, reduce_range=True), "x86_64"),
        (replace(plain, activation="int8"), "x86_64"),
        (plain, "aarch64"),
    ):
        assert not may_saturate(scheme, arch)
