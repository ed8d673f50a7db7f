#include "statistics/histogram.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace edgebuild::statistics {
namespace {

constexpr float kInfinite = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Histogram made() {
  Result<Histogram> result = Histogram::make();
  REQUIRE(result.ok());
  return std::move(result).value();
}

Histogram of(const std::vector<float>& values) {
  Histogram histogram = made();
  REQUIRE(histogram.add(EB_FLOAT32, values.data(), values.size()).ok());
  return histogram;
}

// By the definition, one value at a time.
std::map<std::uint16_t, std::uint64_t> counted(const std::vector<float>& values) {
  std::map<std::uint16_t, std::uint64_t> bins;
  for (const float value : values) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isfinite(value)) ++bins[static_cast<std::uint16_t>(bits >> 16)];
  }
  return bins;
}

std::map<std::uint16_t, std::uint64_t> bins_of(const Histogram& histogram) {
  std::map<std::uint16_t, std::uint64_t> bins;
  for (const Histogram::Bin& bin : histogram.bins()) bins[bin.key] = bin.count;
  return bins;
}

std::vector<float> mixed_values(std::uint32_t seed, std::size_t count) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    switch (random() % 4) {
      case 0:
        value = 0;
        break;
      case 1:
        value = std::normal_distribution<float>(0, 1)(random);
        break;
      case 2:
        value = std::ldexp(std::normal_distribution<float>(0, 1)(random), static_cast<int>(random() % 200) - 100);
        break;
      default:
        do value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
        while (!std::isfinite(value));
    }
  }
  return values;
}

void check_same(const Histogram& a, const Histogram& b) {
  CHECK(a.count() == b.count());
  CHECK(a.not_finite() == b.not_finite());
  CHECK(a.low() == b.low());
  CHECK(a.high() == b.high());
  CHECK(bins_of(a) == bins_of(b));
}

TEST_CASE("bins, extremes and counts are those of the definition, at every length and alignment") {
  const std::vector<float> values = mixed_values(1, 5000);
  for (const std::size_t count :
       std::initializer_list<std::size_t>{0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 1023, 1024, 1025, 2048, 4999}) {
    for (const std::size_t begin : std::initializer_list<std::size_t>{0, 1}) {
      CAPTURE(count);
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
      const std::vector<float> part(first, first + static_cast<std::ptrdiff_t>(count));
      Histogram histogram = made();
      REQUIRE(histogram.add(EB_FLOAT32, values.data() + begin, count).ok());
      CHECK(histogram.count() == count);
      CHECK(histogram.not_finite() == 0);
      CHECK(bins_of(histogram) == counted(part));
      CHECK(histogram.low() == (count == 0 ? kInfinite : *std::min_element(part.begin(), part.end())));
      CHECK(histogram.high() == (count == 0 ? -kInfinite : *std::max_element(part.begin(), part.end())));
    }
  }
}

TEST_CASE("an extreme is found wherever it stands") {
  for (std::size_t place = 0; place < 70; ++place) {
    std::vector<float> values(70, 0.5f);
    values[place] = -3.25f;
    CHECK(of(values).low() == -3.25f);
    values[place] = 3.25f;
    CHECK(of(values).high() == 3.25f);
  }
}

TEST_CASE("bins come in ascending order of their values") {
  const Histogram histogram = of({1, -1, 0, -0.0f, 2, -2, 1e-40f, -1e30f, 1e30f});
  float previous = -kInfinite;
  for (const Histogram::Bin& bin : histogram.bins()) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bin.key) << 16);
    CHECK(value >= previous);
    previous = value;
  }
  CHECK(histogram.bins().size() == 9);  // the two zeros apart; 1e-40 is in the second bin above zero
}

TEST_CASE("neither the order nor the split into batches matters") {
  const std::vector<float> values = mixed_values(2, 3001);
  const Histogram whole = of(values);
  std::vector<float> shuffled = values;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(3));
  check_same(of(shuffled), whole);
  Histogram parts = made();
  std::size_t at = 0;
  for (std::size_t size = 1; at < values.size(); size = size * 2 + 1) {
    const std::size_t part = std::min(size, values.size() - at);
    REQUIRE(parts.add(EB_FLOAT32, values.data() + at, part).ok());
    at += part;
  }
  check_same(parts, whole);
}

TEST_CASE("merging is adding, also when repeated and with an empty one") {
  const std::vector<float> a = mixed_values(4, 1500), b = mixed_values(5, 700);
  std::vector<float> both = a;
  both.insert(both.end(), b.begin(), b.end());
  Histogram merged = of(a);
  REQUIRE(merged.merge(of(b)).ok());
  check_same(merged, of(both));
  REQUIRE(merged.merge(made()).ok());
  check_same(merged, of(both));
  REQUIRE(merged.merge(of(a)).ok());  // what was merged is kept apart from what is counted
  REQUIRE(merged.add(EB_FLOAT32, b.data(), b.size()).ok());
  both.insert(both.end(), a.begin(), a.end());
  both.insert(both.end(), b.begin(), b.end());
  check_same(merged, of(both));
  Histogram empty = made();
  REQUIRE(empty.merge(of(a)).ok());
  check_same(empty, of(a));
}

TEST_CASE("NaN and infinities are counted apart, the first one's index is told, and extremes ignore them") {
  for (const float wrong : {kNan, -kNan, kInfinite, -kInfinite}) {
    for (const std::size_t place : std::initializer_list<std::size_t>{0, 5, 16, 1024, 2999}) {
      CAPTURE(place);
      std::vector<float> values = mixed_values(6, 3000);
      const float last = values[2999];
      values[2999] = wrong;
      values[place] = wrong;
      Histogram histogram = made();
      std::optional<std::size_t> first;
      REQUIRE(histogram.add(EB_FLOAT32, values.data(), values.size(), &first).ok());
      CHECK(first == place);
      CHECK(histogram.not_finite() == (place == 2999 ? 1 : 2));
      CHECK(histogram.count() == values.size() - histogram.not_finite());
      CHECK(bins_of(histogram) == counted(values));
      CHECK(std::isfinite(histogram.low()));
      CHECK(std::isfinite(histogram.high()));
      REQUIRE(histogram.add(EB_FLOAT32, &last, 1, &first).ok());
      CHECK(!first);
    }
  }
  Histogram all = of({kNan, kInfinite});
  CHECK(all.count() == 0);
  CHECK(all.bins().empty());
  CHECK(all.low() == kInfinite);
}

template <typename T>
void check_converted(DType dtype, const std::vector<T>& values, const std::vector<float>& expected) {
  CAPTURE(std::string(dtype_name(dtype)));
  Histogram histogram = made();
  std::optional<std::size_t> first;
  REQUIRE(histogram.add(dtype, values.data(), values.size(), &first).ok());
  check_same(histogram, of(expected));
}

template <typename T>
void check_integers(DType dtype) {
  std::mt19937_64 random(7);
  std::vector<T> values = {std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), 0, 1};
  for (int i = 0; i < 2500; ++i) values.push_back(static_cast<T>(random()));
  std::vector<float> expected;
  for (const T value : values) expected.push_back(static_cast<float>(value));
  check_converted(dtype, values, expected);
}

TEST_CASE("integers count as the float32 values nearest to them") {
  check_integers<std::uint8_t>(EB_UINT8);
  check_integers<std::int8_t>(EB_INT8);
  check_integers<std::uint16_t>(EB_UINT16);
  check_integers<std::int16_t>(EB_INT16);
  check_integers<std::uint32_t>(EB_UINT32);
  check_integers<std::int32_t>(EB_INT32);
  check_integers<std::uint64_t>(EB_UINT64);
  check_integers<std::int64_t>(EB_INT64);
  check_converted<std::uint8_t>(EB_BOOL, {0, 1, 1, 0}, {0, 1, 1, 0});
}

TEST_CASE("every float16 and every bfloat16 has the value of its definition") {
  std::vector<std::uint16_t> patterns(65536);
  std::vector<float> halves(65536), brains(65536);
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    patterns[pattern] = static_cast<std::uint16_t>(pattern);
    const int exponent = static_cast<int>(pattern >> 10 & 31), mantissa = static_cast<int>(pattern & 1023);
    const double magnitude = exponent == 31  ? (mantissa == 0 ? double{kInfinite} : double{kNan})
                             : exponent == 0 ? std::ldexp(mantissa, -24)
                                             : std::ldexp(1024 + mantissa, exponent - 25);
    halves[pattern] = static_cast<float>((pattern & 0x8000) != 0 ? -magnitude : magnitude);
    brains[pattern] = std::bit_cast<float>(pattern << 16);
  }
  check_converted(EB_FLOAT16, patterns, halves);
  check_converted(EB_BFLOAT16, patterns, brains);
}

TEST_CASE("doubles beyond float32 count as infinite") {
  check_converted<double>(EB_FLOAT64, {1.0 / 3, -1e300, 1e300, 1e-300, 3e38},
                          {1.0f / 3, -kInfinite, kInfinite, 0, 3e38f});
}

TEST_CASE("types without statistics are refused, naming what is expected") {
  Histogram histogram = made();
  const float value = 1;
  for (const DType dtype : {EB_STRING, EB_COMPLEX64, EB_FLOAT8_E4M3FN, EB_INT4, EB_DTYPE_UNDEFINED}) {
    const Status status = histogram.add(dtype, &value, 1);
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(status.message().find(dtype_name(dtype)) != std::string::npos);
  }
  CHECK(histogram.count() == 0);
}

TEST_CASE("threads with histograms of their own, merged, give what one gives") {
  const std::vector<float> values = mixed_values(8, 40000);
  std::vector<Histogram> parts;
  for (int i = 0; i < 4; ++i) parts.push_back(made());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { static_cast<void>(parts[i].add(EB_FLOAT32, values.data() + i * 10000, 10000)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 1; i < 4; ++i) REQUIRE(parts[0].merge(parts[i]).ok());
  check_same(parts[0], of(values));
}

}  // namespace
}  // namespace edgebuild::statistics
