"""Histograms and channel statistics of the compiled module against numpy; observations in a file."""

import threading
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild import _runtime
from edgebuild.errors import ResourceError, SignatureError, UsageError
from edgebuild.quantize.statistics import ChannelStatistics, Observations, TensorStatistics

FLOATS = hnp.arrays(
    np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def histogram_of(*arrays: np.ndarray[Any, Any]) -> _runtime.Histogram:
    histogram = _runtime.Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def expected_bins(values: np.ndarray[Any, Any]) -> dict[int, int]:
    keys, counts = np.unique((values.astype(np.float32).ravel().view(np.uint32) >> 16).astype(int), return_counts=True)
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def got_bins(histogram: _runtime.Histogram) -> dict[int, int]:
    keys, counts = histogram.bins()
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


@given(FLOATS)
def test_a_histogram_counts_by_the_upper_half_of_the_pattern(values: np.ndarray[Any, Any]) -> None:
    histogram = histogram_of(values)
    assert histogram.count == values.size
    assert got_bins(histogram) == expected_bins(values)
    if values.size:
        assert (histogram.low, histogram.high) == (values.min(), values.max())
    else:
        assert (histogram.low, histogram.high) == (np.inf, -np.inf)


@given(st.lists(FLOATS, max_size=5), st.randoms(use_true_random=False))
def test_order_split_and_merging_do_not_matter(parts: list[np.ndarray[Any, Any]], random: Any) -> None:
    whole = histogram_of(np.concatenate([np.zeros(0, np.float32), *parts]))
    random.shuffle(parts)
    merged = _runtime.Histogram()
    for part in parts:
        merged.merge(histogram_of(part[::-1].copy()))
    for other in (histogram_of(*parts), merged):
        assert got_bins(other) == got_bins(whole)
        assert (other.count, other.low, other.high) == (whole.count, whole.low, whole.high)


@given(FLOATS.filter(lambda values: values.size > 0))
def test_edges_hold_what_is_in_the_bin_and_centres_are_close(values: np.ndarray[Any, Any]) -> None:
    statistics = TensorStatistics.of(histogram_of(values))
    lower, upper = statistics.edges()
    assert np.all(lower <= upper)
    assert np.all(upper[:-1] <= lower[1:])
    for edge, extreme in ((lower[0], values.min()), (upper[-1], values.max())):
        assert edge == extreme or max(abs(edge), abs(extreme)) < 2.0**-133  # that is zero's bin
    edges = dict(zip(statistics.bins.tolist(), zip(lower, upper, strict=True), strict=True))
    keys = (values.view(np.uint32) >> 16).tolist()
    for value, key in zip(values.astype(np.float64), keys, strict=True):
        low, high = edges[key]
        if key in (0, 0x8000):
            assert abs(value) < 2.0**-133
        else:
            assert low <= value <= high
            assert abs((low + high) / 2 - value) <= max(abs(value) / 128, 2.0**-133)


def test_a_histogram_of_many_values_agrees_with_numpys_own() -> None:
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    statistics = TensorStatistics.of(histogram_of(values))
    lower, upper = statistics.edges()
    inner = np.unique(np.concatenate([lower[1:], upper[:-1]]))
    counts, _ = np.histogram(values, np.concatenate([[-np.inf], inner, [np.inf]]))
    assert counts[counts > 0].sum() == statistics.count
    # A negative bin is open at its lower end and numpy's at its upper: no value lies just there but by chance.
    assert np.abs(counts[counts > 0] - statistics.counts).sum() <= 4


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_, "bfloat16"])
def test_other_dtypes_count_as_their_float32_values(dtype: Any) -> None:
    random = np.random.default_rng(1)
    values = (random.standard_normal((30, 41)) * 50).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    histogram = histogram_of(values)
    assert got_bins(histogram) == expected_bins(values.astype(np.float32))
    assert histogram.low == values.astype(np.float32).min()


def test_strided_and_foreign_byte_order_arrays_are_taken() -> None:
    values = np.random.default_rng(2).standard_normal((40, 50)).astype(np.float32)
    for view in (values[::2, 1::3], values.T, values.astype(">f4")):
        assert got_bins(histogram_of(view)) == expected_bins(np.ascontiguousarray(view).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_adding_tells_the_first_index_that_is_not_finite(value: float) -> None:
    values = np.ones((3, 2000), np.float32)
    values[1, 7] = values[2, 1] = value
    histogram = _runtime.Histogram()
    assert histogram.add(values) == 2007
    assert (histogram.not_finite, histogram.count, histogram.low, histogram.high) == (2, 5998, 1.0, 1.0)
    assert histogram.add(np.ones(5, np.float32)) is None
    assert histogram.add(np.array([0, value])) == 1


@pytest.mark.parametrize("values", [np.array(["a"]), np.ones(3, np.complex64), np.array([None])])
def test_arrays_without_statistics_are_refused(values: np.ndarray[Any, Any]) -> None:
    for accumulator in (_runtime.Histogram(), _runtime.ChannelStatistics(0)):
        with pytest.raises(SignatureError, match=r"expected an array of bool, integers or floats"):
            accumulator.add(values)


def test_merging_a_histogram_into_itself_is_refused() -> None:
    histogram = histogram_of(np.ones(3, np.float32))
    with pytest.raises(SignatureError, match="into themselves"):
        histogram.merge(histogram)


def test_threads_may_share_a_histogram() -> None:
    values = np.random.default_rng(3).standard_normal(50_000).astype(np.float32)
    histogram = _runtime.Histogram()
    threads = [threading.Thread(target=lambda: [histogram.add(values) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.count == 80 * values.size
    assert got_bins(histogram) == {key: 80 * count for key, count in expected_bins(values).items()}


@settings(max_examples=60)
@given(st.data())
def test_channel_statistics_are_numpys(data: Any) -> None:
    rank = data.draw(st.integers(1, 5))
    axis = data.draw(st.integers(-rank, rank - 1))
    channels = data.draw(st.integers(1, 9))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    counted = _runtime.ChannelStatistics(axis)
    batches = []
    for _ in range(data.draw(st.integers(1, 3))):
        shape = [data.draw(st.integers(1, 6)) for _ in range(rank)]
        shape[axis] = channels
        batches.append((random.standard_normal(shape) * 10.0 ** random.integers(-3, 4)).astype(np.float32))
        counted.add(batches[-1])
    flat = np.concatenate([np.moveaxis(b, axis, 0).reshape(channels, -1) for b in batches], 1).astype(np.float64)
    got = ChannelStatistics.of(counted)
    assert got.count == flat.shape[1]
    np.testing.assert_array_equal(got.low, flat.min(1))
    np.testing.assert_array_equal(got.high, flat.max(1))
    np.testing.assert_array_equal(got.absmax, np.abs(flat).max(1))
    np.testing.assert_allclose(got.mean, flat.mean(1), rtol=1e-12, atol=1e-12 * np.abs(flat).max())
    np.testing.assert_allclose(got.mean_square, (flat**2).mean(1), rtol=1e-12)


def test_channel_statistics_refuse_another_number_of_channels() -> None:
    counted = _runtime.ChannelStatistics(1)
    counted.add(np.ones((2, 3), np.float32))
    with pytest.raises(SignatureError, match=r"expected 3 channels on axis 1 as before, got shape \(2,4\)"):
        counted.add(np.ones((2, 4), np.float32))


def observations(seed: int = 0) -> Observations:
    random = np.random.default_rng(seed)
    tensors = {}
    for name in ("conv/out:0", "añadir", ""):
        values = random.standard_normal((4, 5, 6)).astype(np.float32)
        channels = _runtime.ChannelStatistics(-2)
        channels.add(values)
        tensors[name] = TensorStatistics.of(histogram_of(values), channels if name else None)
    return Observations(tensors=tensors, batches=7)


def test_observations_survive_a_file_and_give_the_same_bytes(tmp_path: Path) -> None:
    first = observations()
    first.write(tmp_path / "a.npz")
    read = Observations.read(tmp_path / "a.npz")
    read.write(tmp_path / "b.npz")
    turned = Observations(tensors=dict(reversed(first.tensors.items())), batches=7)
    turned.write(tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    assert read.batches == 7
    assert set(read.tensors) == set(first.tensors)
    for name, expected in first.tensors.items():
        got = read.tensors[name]
        assert (got.low, got.high, got.count, got.infinite) == (expected.low, expected.high, expected.count, 0)
        np.testing.assert_array_equal(got.bins, expected.bins)
        np.testing.assert_array_equal(got.counts, expected.counts)
        assert (got.channels is None) == (expected.channels is None)
        if got.channels is not None and expected.channels is not None:
            assert (got.channels.axis, got.channels.count) == (-2, 24)
            np.testing.assert_array_equal(got.channels.mean_square, expected.channels.mean_square)
            np.testing.assert_array_equal(got.channels.low, expected.channels.low)


def test_observations_of_nothing_can_be_kept(tmp_path: Path) -> None:
    Observations(tensors={}, batches=1).write(tmp_path / "a.npz")
    assert not Observations.read(tmp_path / "a.npz").tensors


def test_what_is_no_observations_file_is_refused(tmp_path: Path) -> None:
    observations().write(tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    for name in ("cut.npz", "text.npz", "other.npz", "none.npz"):
        with pytest.raises(UsageError, match=name):
            Observations.read(tmp_path / name)
    with pytest.raises(ResourceError, match="can't be written"):
        observations().write(tmp_path / "no" / "folder.npz")
