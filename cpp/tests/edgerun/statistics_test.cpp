#include "statistics.hpp"

#include <doctest/doctest.h>

#include <cmath>

using edgerun::describe;
using edgerun::percentile;

TEST_CASE("percentiles interpolate linearly between neighbours") {
  // numpy.percentile([1, 2, 4, 8], …)
  const std::vector<double> sample{1, 2, 4, 8};
  CHECK(percentile(sample, 0) == 1.0);
  CHECK(percentile(sample, 50) == 3.0);
  CHECK(percentile(sample, 90) == doctest::Approx(6.8));
  CHECK(percentile(sample, 99) == doctest::Approx(7.88));
  CHECK(percentile(sample, 100) == 8.0);
}

TEST_CASE("one sample is every percentile and has no spread") {
  const auto result = describe({7.5});
  CHECK(result.mean == 7.5);
  CHECK(result.std == 0.0);
  CHECK(result.p50 == 7.5);
  CHECK(result.p99 == 7.5);
}

TEST_CASE("an empty sample is all zero") { CHECK(describe({}).mean == 0.0); }

TEST_CASE("the order of the sample does not matter") {
  const auto result = describe({5, 1, 4, 2, 3});
  CHECK(result.min == 1.0);
  CHECK(result.max == 5.0);
  CHECK(result.p50 == 3.0);
  CHECK(result.std == doctest::Approx(std::sqrt(2.0)));
}

TEST_CASE("a small spread around a large mean survives") {
  const auto result = describe({1e9 + 1, 1e9 + 2, 1e9 + 3});
  CHECK(result.std == doctest::Approx(std::sqrt(2.0 / 3.0)));
}
