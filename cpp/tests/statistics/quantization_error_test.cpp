#include "statistics/quantization_error.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace edgebuild::statistics {
namespace {

// By the definition: round, clip, subtract, square.
double direct_error(double x, double low, double high, int levels, bool symmetric) {
  const double step = (high - low) / (levels - 1);
  const double zero = symmetric ? levels / 2 : std::clamp(std::nearbyint(-low / step), 0.0, levels - 1.0);
  const double code = std::clamp(std::nearbyint(x / step) + zero, 0.0, levels - 1.0);
  const double error = x - (code - zero) * step;
  return error * error;
}

struct Range {
  double low, high;
  int levels;
  bool symmetric;
};

const std::vector<Range> kRanges = {{-1, 1, 255, true},    {-1, 1, 256, true},  {-0.7, 2.1, 256, false},
                                    {0, 3, 256, false},    {-3, 0, 128, false}, {-0.01, 0.02, 16, false},
                                    {-40, 50, 256, false}, {-1, 1e-3, 4, false}};

TEST_CASE("the error of bins is the integral of the error of values") {
  const std::vector<double> lower = {-5, -2.02, -0.3, -1e-3, 0, 1e-9, 0.2, 0.97, 1.5, 2.5};
  const std::vector<double> upper = {-4.9, -2.0, -0.29, -0.9e-3, 0, 2e-9, 0.3, 0.97, 1.6, 2.7};
  const std::vector<double> counts = {1, 20, 300, 7, 1000, 5, 60, 9, 10, 2};
  for (const Range& r : kRanges) {
    CAPTURE(r.low);
    CAPTURE(r.levels);
    const std::vector<Quantizer> one = {{r.low, r.high, r.levels, r.symmetric}};
    double expected = 0;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      constexpr int kSamples = 20000;
      double sum = 0;
      for (int k = 0; k < kSamples; ++k) {
        const double x = lower[i] + (upper[i] - lower[i]) * (k + 0.5) / kSamples;
        sum += direct_error(x, r.low, r.high, r.levels, r.symmetric);
      }
      expected += counts[i] * sum / kSamples;
    }
    const double got = squared_errors({lower, upper, counts}, one)[0];
    CHECK(got == doctest::Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("single values cost exactly their own error, also where the grid ends and at zero") {
  std::mt19937 random(1);
  std::vector<double> values(500);
  for (double& value : values) value = std::normal_distribution<double>(0, 1)(random);
  for (const double value : {0.0, 1.0, -1.0, 2.1, -0.7}) values.push_back(value);
  std::sort(values.begin(), values.end());
  const std::vector<double> counts(values.size(), 1.0);
  std::vector<Quantizer> quantizers;
  for (const Range& r : kRanges) quantizers.emplace_back(r.low, r.high, r.levels, r.symmetric);
  const std::vector<double> got = squared_errors({values, values, counts}, quantizers);
  for (std::size_t i = 0; i < kRanges.size(); ++i) {
    const Range& r = kRanges[i];
    double expected = 0;
    for (const double x : values) expected += direct_error(x, r.low, r.high, r.levels, r.symmetric);
    CHECK(got[i] == doctest::Approx(expected).epsilon(1e-9));
  }
}

TEST_CASE("no bins cost nothing, and no quantiser has no error") {
  CHECK(squared_errors({}, std::vector<Quantizer>{{0, 1, 256, false}}) == std::vector<double>{0});
  CHECK(squared_errors({}, {}).empty());
}

TEST_CASE("ranges from the smallest to the largest float32 keep their digits") {
  for (const double scale : {1e-36, 1.0, 1e38}) {
    const std::vector<double> lower = {-3 * scale, 0.5 * scale}, upper = {-2.98 * scale, 0.504 * scale},
                              counts = {3, 5};
    const std::vector<double> unit_lower = {-3, 0.5}, unit_upper = {-2.98, 0.504};
    const double unit = squared_errors({unit_lower, unit_upper, counts}, std::vector<Quantizer>{{-2, 2, 255, true}})[0];
    const double got =
        squared_errors({lower, upper, counts}, std::vector<Quantizer>{{-2 * scale, 2 * scale, 255, true}})[0];
    CHECK(got / scale / scale == doctest::Approx(unit).epsilon(1e-9));
  }
}

}  // namespace
}  // namespace edgebuild::statistics
