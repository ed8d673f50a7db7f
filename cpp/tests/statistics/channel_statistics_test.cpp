#include "statistics/channel_statistics.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace edgebuild::statistics {
namespace {

using Shape = std::vector<std::int64_t>;

std::size_t elements(const Shape& shape) {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

std::vector<float> normal_values(std::uint32_t seed, std::size_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.5f, 2);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Reference {
  std::uint64_t count = 0;
  std::vector<double> low, high, sum, squares;
};

// By the definition: the index along the axis of each element in turn.
void take(Reference& reference, const std::vector<float>& values, const Shape& shape, std::size_t axis) {
  std::size_t inner = 1;
  for (std::size_t i = axis + 1; i < shape.size(); ++i) inner *= static_cast<std::size_t>(shape[i]);
  const auto channels = static_cast<std::size_t>(shape[axis]);
  if (reference.low.empty()) {
    reference.low.assign(channels, std::numeric_limits<double>::infinity());
    reference.high.assign(channels, -std::numeric_limits<double>::infinity());
    reference.sum.assign(channels, 0);
    reference.squares.assign(channels, 0);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t c = i / inner % channels;
    const double value = values[i];
    reference.low[c] = std::min(reference.low[c], value);
    reference.high[c] = std::max(reference.high[c], value);
    reference.sum[c] += value;
    reference.squares[c] += value * value;
  }
  if (channels != 0) reference.count += values.size() / channels;
}

void check_equal(const ChannelStatistics& got, const Reference& expected) {
  REQUIRE(got.channels() == expected.low.size());
  CHECK(got.count() == expected.count);
  for (std::size_t c = 0; c < got.channels(); ++c) {
    CAPTURE(c);
    CHECK(double{got.low()[c]} == expected.low[c]);
    CHECK(double{got.high()[c]} == expected.high[c]);
    const double scale = 1 + expected.squares[c];
    CHECK(std::abs(got.sum()[c] - expected.sum[c]) <= 1e-13 * scale);
    CHECK(std::abs(got.sum_of_squares()[c] - expected.squares[c]) <= 1e-13 * scale);
  }
}

TEST_CASE("channels have the moments of the definition, for every rank and axis") {
  const std::vector<Shape> shapes = {{1},       {7},           {3, 5},       {5, 1},          {2, 3, 4},
                                     {1, 8, 9}, {2, 16, 7, 7}, {1, 3, 1, 1}, {2, 2, 3, 2, 5}, {4, 33, 17}};
  std::uint32_t seed = 10;
  for (const Shape& shape : shapes) {
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      CAPTURE(shape.size());
      CAPTURE(axis);
      ChannelStatistics from_front(static_cast<std::int64_t>(axis));
      ChannelStatistics from_back(static_cast<std::int64_t>(axis) - static_cast<std::int64_t>(shape.size()));
      Reference reference;
      for (int batch = 0; batch < 3; ++batch) {
        const std::vector<float> values = normal_values(++seed, elements(shape));
        REQUIRE(from_front.add(EB_FLOAT32, values.data(), shape).ok());
        REQUIRE(from_back.add(EB_FLOAT32, values.data(), shape).ok());
        take(reference, values, shape, axis);
      }
      check_equal(from_front, reference);
      check_equal(from_back, reference);
    }
  }
}

TEST_CASE("batches may differ in all sizes but the channels', and nothing may be in them") {
  ChannelStatistics statistics(1);
  Reference reference;
  for (const Shape& shape : {Shape{2, 3, 10}, Shape{1, 3, 4, 5}, Shape{0, 3, 8}, Shape{5, 3}, Shape{2, 3, 0}}) {
    const std::vector<float> values = normal_values(20, elements(shape));
    REQUIRE(statistics.add(EB_FLOAT32, values.data(), shape).ok());
    take(reference, values, shape, 1);
  }
  check_equal(statistics, reference);
}

TEST_CASE("a small spread around a large mean keeps its digits") {
  ChannelStatistics statistics(0);
  std::vector<float> values(100000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 4096.0f + (i % 2 == 0 ? 0.5f : -0.5f);
  const Shape shape = {1, 100000};
  for (int batch = 0; batch < 20; ++batch) REQUIRE(statistics.add(EB_FLOAT32, values.data(), shape).ok());
  const auto n = static_cast<double>(statistics.count());
  CHECK(n == 2e6);
  const double mean = statistics.sum()[0] / n;
  CHECK(mean == doctest::Approx(4096.0).epsilon(1e-12));
  CHECK(statistics.sum_of_squares()[0] / n - mean * mean == doctest::Approx(0.25).epsilon(1e-6));
}

TEST_CASE("merging is adding") {
  const Shape shape = {2, 5, 6};
  const std::vector<float> a = normal_values(30, 60), b = normal_values(31, 60);
  ChannelStatistics first(1), second(1), empty(1);
  Reference reference;
  REQUIRE(first.add(EB_FLOAT32, a.data(), shape).ok());
  REQUIRE(second.add(EB_FLOAT32, b.data(), shape).ok());
  take(reference, a, shape, 1);
  take(reference, b, shape, 1);
  REQUIRE(first.merge(second).ok());
  REQUIRE(first.merge(empty).ok());
  check_equal(first, reference);
  REQUIRE(empty.merge(first).ok());
  check_equal(empty, reference);
}

TEST_CASE("other dtypes are converted") {
  ChannelStatistics statistics(-1);
  const std::vector<std::int16_t> values = {1, -2, 3, 400, 5, -600};
  const Shape shape = {3, 2};
  REQUIRE(statistics.add(EB_INT16, values.data(), shape).ok());
  CHECK(statistics.low() == std::vector<float>{1, -600});
  CHECK(statistics.high() == std::vector<float>{5, 400});
  CHECK(statistics.sum() == std::vector<double>{9, -202});
}

TEST_CASE("a wrong axis, other channels and types without statistics are refused and change nothing") {
  const std::vector<float> values(24, 1.0f);
  ChannelStatistics statistics(1);
  CHECK(statistics.add(EB_FLOAT32, values.data(), Shape{24}).code() == Code::kInvalidArgument);
  CHECK(statistics.add(EB_FLOAT32, values.data(), Shape{}).code() == Code::kInvalidArgument);
  CHECK(ChannelStatistics(-3).add(EB_FLOAT32, values.data(), Shape{4, 6}).code() == Code::kInvalidArgument);
  REQUIRE(statistics.add(EB_FLOAT32, values.data(), Shape{4, 6}).ok());
  const Status status = statistics.add(EB_FLOAT32, values.data(), Shape{6, 4});
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(status.message().find("expected 6 channels on axis 1") != std::string::npos);
  CHECK(status.message().find("(6,4)") != std::string::npos);
  CHECK(statistics.add(EB_STRING, values.data(), Shape{4, 6}).code() == Code::kInvalidArgument);
  CHECK(statistics.merge(ChannelStatistics(0)).ok());  // it has seen nothing
  ChannelStatistics other(0);
  REQUIRE(other.add(EB_FLOAT32, values.data(), Shape{6, 4}).ok());
  CHECK(statistics.merge(other).code() == Code::kInvalidArgument);
  CHECK(statistics.count() == 4);
}

}  // namespace
}  // namespace edgebuild::statistics
