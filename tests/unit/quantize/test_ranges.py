"""Ranges against numpy's quantiles, brute force on the raw values, entropy as its source has it, and ONNX Runtime's calibrators."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild import _runtime
from edgebuild.errors import InternalError
from edgebuild.quantize.ranges import RANGE_METHODS, choose_range, divergence, expected_error, linear_magnitudes
from edgebuild.quantize.statistics import TensorStatistics

Values = np.ndarray[Any, np.dtype[np.float32]]


def statistics_of(values: Values) -> TensorStatistics:
    histogram = _runtime.Histogram()
    histogram.add(values)
    return TensorStatistics.of(histogram)


def distributions() -> dict[str, Values]:
    random = np.random.default_rng(7)
    n = 20_000
    normal = random.standard_normal(n)
    outliers = normal.copy()
    outliers[:3] *= 1000
    return {
        "normal": normal.astype(np.float32),
        "shifted": (normal * 0.3 + 2).astype(np.float32),
        "negative": (-np.abs(normal) - 1).astype(np.float32),
        "relu": np.maximum(normal, 0).astype(np.float32),
        "relu6": np.clip(normal * 4, 0, 6).astype(np.float32),
        "laplace": random.laplace(size=n).astype(np.float32),
        "skewed": random.gamma(1.5, size=n).astype(np.float32) - np.float32(0.7),
        "outliers": outliers.astype(np.float32),
        "uniform": random.uniform(-3, 5, n).astype(np.float32),
        "heavy": (random.standard_t(2, n) * 1e-3).astype(np.float32),
        "few": random.standard_normal(40).astype(np.float32) * np.float32(1e30),
        "codes": random.integers(-5, 20, n).astype(np.float32),
    }


DISTRIBUTIONS = distributions()
each_distribution = pytest.mark.parametrize("name", DISTRIBUTIONS)
SCHEMES = ((256, False), (128, False), (255, True), (256, True), (16, False))
each_scheme = pytest.mark.parametrize(("levels", "symmetric"), SCHEMES)


def quantised(values: Values, low: float, high: float, levels: int, symmetric: bool) -> Any:
    """What a quantiser with this range gives back, value by value, in double."""
    step = (high - low) / (levels - 1)
    zero = levels // 2 if symmetric else np.clip(np.round(-low / step), 0, levels - 1)
    codes = np.clip(np.round(values.astype(np.float64) / step) + zero, 0, levels - 1)
    return (codes - zero) * step


def squared_error(values: Values, low: float, high: float, levels: int, symmetric: bool) -> float:
    return float(np.mean((values.astype(np.float64) - quantised(values, low, high, levels, symmetric)) ** 2))


@each_distribution
def test_minmax_is_exact_and_holds_zero(name: str) -> None:
    values = DISTRIBUTIONS[name]
    low, high = choose_range(statistics_of(values), "minmax")
    assert (low, high) == (min(values.min(), 0), max(values.max(), 0))
    largest = np.abs(values).max()
    assert choose_range(statistics_of(values), "minmax", symmetric=True, levels=255) == (-largest, largest)


@each_distribution
@pytest.mark.parametrize("percentile", [99.99, 99.9, 95.0, 100.0])
def test_percentile_is_numpys_within_a_bin(name: str, percentile: float) -> None:
    values = DISTRIBUTIONS[name]
    statistics = statistics_of(values)
    low, high = choose_range(statistics, "percentile", percentile=percentile)
    tail = (1 - percentile / 100) / 2
    for got, share, limit in ((low, tail, min), (high, 1 - tail, max)):
        ordered = np.quantile(values.astype(np.float64), share, method="linear")
        assert got == pytest.approx(limit(float(ordered), 0.0), rel=1 / 64, abs=1e-12)
    _, high = choose_range(statistics, "percentile", percentile=percentile, symmetric=True)
    expected = np.quantile(np.abs(values.astype(np.float64)), percentile / 100)
    assert high == pytest.approx(float(expected), rel=1 / 64)


@pytest.mark.parametrize(
    ("name", "levels", "symmetric"),
    [
        (name, levels, symmetric)
        for name in DISTRIBUTIONS
        for levels, symmetric in SCHEMES
        # Of few distinct values a bin's are not evenly spread, which the expectation takes them to be.
        if name not in ("few", "codes") and not (name == "relu6" and levels < 256)
    ],
)
def test_the_expected_error_is_the_measured_one(name: str, levels: int, symmetric: bool) -> None:
    values = DISTRIBUTIONS[name]
    statistics = statistics_of(values)
    low, high = choose_range(statistics, "minmax", levels=levels, symmetric=symmetric)
    for share in (1.0, 0.7, 0.3, 0.1):
        expected = squared_error(values, low * share, high * share, levels, symmetric)
        got = expected_error(statistics, low * share, high * share, levels=levels, symmetric=symmetric)
        assert got == pytest.approx(expected, rel=0.03)


@each_distribution
@each_scheme
def test_mse_is_as_good_as_brute_force_on_the_values(name: str, levels: int, symmetric: bool) -> None:
    values = DISTRIBUTIONS[name]
    low, high = choose_range(statistics_of(values), "mse", levels=levels, symmetric=symmetric)
    got = squared_error(values, low, high, levels, symmetric)
    lowest, highest = choose_range(statistics_of(values), "minmax", levels=levels, symmetric=symmetric)
    ratios = 2.0 ** -np.arange(0, 14, 0.1 if symmetric or lowest == 0 or highest == 0 else 0.5)
    lows = -highest * ratios if symmetric else np.unique(lowest * ratios)
    best = min(
        squared_error(values, a, b, levels, symmetric)
        for a in lows
        for b in ([-a] if symmetric else np.unique(highest * ratios))
    )
    if name in ("few", "codes"):
        # So few distinct values that a lucky grid can hit them all; no histogram can know.
        assert got <= squared_error(values, lowest, highest, levels, symmetric) * 1.3 + 1e-30
    else:
        assert got <= best * 1.03


def test_mse_clips_lone_outliers_and_keeps_a_uniform_distribution() -> None:
    low, high = choose_range(statistics_of(DISTRIBUTIONS["uniform"]), "mse")
    assert low == pytest.approx(-3, rel=0.02)
    assert high == pytest.approx(5, rel=0.02)
    values = np.append(DISTRIBUTIONS["normal"], np.float32(60)).astype(np.float32)
    low, high = choose_range(statistics_of(values), "mse", levels=16)
    assert high < 10


def direct_divergence(histogram: Any, kept: int, quantised_bins: int) -> float:
    """Migacz, GTC 2017, slide "Pseudocode for the INT8 conversion", with groups of nearly equal width."""
    reference = histogram[:kept].astype(np.float64).copy()
    reference[-1] += histogram[kept:].sum()
    candidate = np.zeros(kept)
    for group in range(quantised_bins):
        begin, end = group * kept // quantised_bins, (group + 1) * kept // quantised_bins
        part = histogram[begin:end]
        if (part > 0).any():
            candidate[begin:end][part > 0] = part.sum() / (part > 0).sum()
    if candidate.sum() == 0 or (candidate[reference > 0] == 0).any():
        return np.inf
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))


@pytest.mark.parametrize("quantised_bins", [128, 64, 256])
@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "heavy", "few", "codes", "outliers"])
def test_divergence_is_that_of_the_direct_algorithm(name: str, quantised_bins: int) -> None:
    values = np.abs(DISTRIBUTIONS[name])
    histogram, _ = np.histogram(values[values > 0], 600, (0, values.max()))
    got = divergence(histogram.astype(np.float64), quantised_bins, np.arange(quantised_bins, 601))
    expected = [direct_divergence(histogram, kept, quantised_bins) for kept in range(quantised_bins, 601)]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@each_distribution
def test_linear_magnitudes_are_numpys_histogram_smoothed(name: str) -> None:
    values = DISTRIBUTIONS[name]
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    got = linear_magnitudes(statistics_of(values), 2048)
    expected, _ = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    assert got.sum() == pytest.approx(len(magnitudes))
    assert (got >= 0).all()
    # A value moves by less than the width of its bin, 1/128 of it: 16 of the 2,048 at the most.
    reached, exact = np.cumsum(got), np.cumsum(expected)
    padded = np.concatenate([np.zeros(17), exact, np.full(17, exact[-1])])
    for index in range(2048):
        assert padded[index] - 1e-6 <= reached[index] <= padded[index + 34] + 1e-6


@pytest.mark.parametrize("name", ["normal", "relu", "laplace", "skewed", "uniform", "negative"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_entropy_is_nearly_as_good_as_on_the_values_themselves(name: str, symmetric: bool) -> None:
    values = DISTRIBUTIONS[name]
    low, high = choose_range(statistics_of(values), "entropy", symmetric=symmetric)
    one_sided = not symmetric and (values.min() >= 0 or values.max() <= 0)
    groups = 256 if one_sided else 128
    magnitudes = np.abs(values[values != 0])
    histogram, _ = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    direct = divergence(histogram.astype(np.float64), groups, np.arange(groups, 2049))  # as the test above proves
    direct[: max(0, int(np.searchsorted(np.cumsum(histogram), 0.9 * histogram.sum())) + 1 - groups)] = np.inf
    kept = round(max(-low, high) / magnitudes.max() * 2048)
    # Smoothing within 1/128 makes sparse tails look filled, so thresholds differ; what they lose hardly does.
    near = direct[max(kept - 24, groups) - groups : kept + 24 - groups + 1]
    assert near.min() <= direct.min() + 0.01


def test_entropy_does_not_collapse_on_values_that_keep_away_from_zero() -> None:
    low, high = choose_range(statistics_of(DISTRIBUTIONS["negative"]), "entropy")
    assert low < np.quantile(DISTRIBUTIONS["negative"], 0.1)
    assert high == 0


@each_distribution
@each_scheme
@pytest.mark.parametrize("method", RANGE_METHODS)
def test_a_range_lies_within_what_was_seen(name: str, levels: int, symmetric: bool, method: Any) -> None:
    values = DISTRIBUTIONS[name]
    statistics = statistics_of(values)
    low, high = choose_range(statistics, method, levels=levels, symmetric=symmetric)
    lowest, highest = choose_range(statistics, "minmax", levels=levels, symmetric=symmetric)
    assert lowest <= low <= 0 <= high <= highest
    assert low < high
    if symmetric:
        assert low == -high
    assert choose_range(statistics, method, levels=levels, symmetric=symmetric) == (low, high)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.sampled_from(RANGE_METHODS),
    st.sampled_from([(256, False), (255, True), (256, True), (128, False), (4, False)]),
)
def test_any_values_give_a_usable_range(values: Values, method: Any, scheme: tuple[int, bool]) -> None:
    levels, symmetric = scheme
    low, high = choose_range(statistics_of(values), method, levels=levels, symmetric=symmetric)
    assert np.isfinite(low)
    assert np.isfinite(high)
    assert low <= 0 <= high
    scale = (high - low) / (levels - 1)
    assert scale >= 2.0**-100
    assert np.isfinite(np.float32(1 / scale))


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0] * 9, (0.0, 1.0)),
        ([-0.0], (0.0, 1.0)),
        ([3.0] * 5, (0.0, 3.0)),
        ([-3.0], (-3.0, 0.0)),
        ([1e30, -1e30], (-1e30, 1e30)),
    ],
)
def test_degenerate_tensors(method: Any, values: list[float], expected: tuple[float, float]) -> None:
    got = choose_range(statistics_of(np.array(values, np.float32)), method)
    assert got == pytest.approx(expected, rel=0.02)
    assert not np.signbit(got[1])


def test_symmetric_zeros_and_denormals_have_a_width() -> None:
    assert choose_range(statistics_of(np.zeros(3, np.float32)), "mse", symmetric=True) == (-1.0, 1.0)
    for method in RANGE_METHODS:
        low, high = choose_range(statistics_of(np.array([1e-39, -1e-40], np.float32)), method)
        assert high - low == pytest.approx(256 * 2.0**-100)


def test_a_range_of_nothing_or_with_no_levels_is_a_bug() -> None:
    empty = TensorStatistics(low=0, high=0, count=0, bins=np.zeros(0, np.uint16), counts=np.zeros(0, np.uint64))
    with pytest.raises(InternalError, match="4 levels or more"):
        choose_range(empty, "minmax")
    with pytest.raises(InternalError, match="got 1"):
        choose_range(statistics_of(np.ones(1, np.float32)), "mse", levels=1)


def engine_range(values: Values, method: str, symmetric: bool) -> tuple[float, float]:
    """What ONNX Runtime's histogram collector makes of the same values."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(
        method=method, symmetric=symmetric, num_bins=2048, num_quantized_bins=128, percentile=99.0, scenario="same"
    )
    collector.collect({"x": [values]})
    low, high = collector.compute_collection_result()["x"][:2]
    return float(np.asarray(low)), float(np.asarray(high))


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform", "skewed"])
def test_percentile_agrees_with_onnxruntimes_calibrator(name: str) -> None:
    values = DISTRIBUTIONS[name]
    expected = engine_range(values, "percentile", symmetric=False)
    got = choose_range(statistics_of(values), "percentile", percentile=99.0)  # where neighbours lie close together
    # Theirs ends at an edge of one of 2,048 bins over the whole range.
    width = float(values.max() - values.min())
    assert got == pytest.approx(expected, abs=width / 2048 * 3 + max(map(abs, expected)) / 64)


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform"])
def test_entropy_is_near_onnxruntimes_calibrator(name: str) -> None:
    values = DISTRIBUTIONS[name]
    expected = max(map(abs, engine_range(values, "entropy", symmetric=True)))
    got = choose_range(statistics_of(values), "entropy", symmetric=True)[1]
    # Theirs smooths empty bins by a constant and steps in whole groups: the optimum is flat, so only its place is compared.
    assert 0.6 * expected <= got <= 1.6 * expected
