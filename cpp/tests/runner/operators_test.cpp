// Rows made ready for integer products, against the same in double precision.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "onnxruntime/operators/rows.hpp"

namespace {

using namespace edgebuild::onnxruntime;  // NOLINT

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::size_t> sizes_of(std::initializer_list<std::size_t> sizes) { return sizes; }

struct Result {
  Extent extent;
  Quantization quantization;
  std::vector<std::uint8_t> integers;
};

Result quantized(const RowPreparation& preparation, const std::vector<float>& rows, std::size_t count) {
  Result result;
  result.integers.resize(count * preparation.width());
  std::vector<float> scratch(preparation.width());
  result.extent = measure_rows(preparation, rows.data(), count, scratch.data());
  result.quantization = quantization_of(result.extent);
  quantize_rows(preparation, rows.data(), count, result.quantization, scratch.data(), result.integers.data());
  return result;
}

Result plain(const std::vector<float>& rows) {
  RowPreparation preparation;
  preparation.depth = rows.size();
  return quantized(preparation, rows, 1);
}

std::vector<double> prepared(const RowPreparation& preparation, const float* row) {
  std::vector<double> values;
  for (std::size_t j = 0; j < preparation.width(); ++j) {
    const bool copy = j >= preparation.depth;
    double value = row[copy ? static_cast<std::size_t>(preparation.columns[j - preparation.depth]) : j];
    if (copy && preparation.shifts != nullptr) value += preparation.shifts[j - preparation.depth];
    values.push_back(preparation.factors != nullptr ? value * preparation.factors[j] : value);
  }
  return values;
}

void check_against_reference(const RowPreparation& preparation, const std::vector<float>& rows, std::size_t count) {
  const Result result = quantized(preparation, rows, count);
  double low = 0, high = 0;
  std::vector<double> values;
  for (std::size_t r = 0; r < count; ++r) {
    const std::vector<double> own = prepared(preparation, rows.data() + r * preparation.depth);
    for (const double value : own) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
    values.insert(values.end(), own.begin(), own.end());
  }
  CHECK(std::abs(result.extent.low - low) <= (high - low) * 1e-6);
  CHECK(std::abs(result.extent.high - high) <= (high - low) * 1e-6);
  if (high == low) {
    CHECK(result.quantization.scale == 1.0f);
    CHECK(result.quantization.zero_point == 0);
    return;
  }
  const double scale = (high - low) / 255;
  const double zero_point = result.quantization.zero_point;
  CHECK(std::abs(result.quantization.scale - scale) <= scale * 1e-6);
  CHECK(std::abs(zero_point + low / scale) <= 0.501);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double exact = std::clamp(values[i] / scale + zero_point, 0.0, 255.0);
    if (std::abs(result.integers[i] - exact) > 0.501) ++wrong;
  }
  CHECK(wrong == 0);
}

struct OwnRanges {
  std::vector<float> sizes, offsets;
  std::vector<std::uint8_t> integers;
};

OwnRanges each_row(const RowPreparation& preparation, const std::vector<float>& rows, std::size_t count) {
  OwnRanges result = {std::vector<float>(count), std::vector<float>(count),
                      std::vector<std::uint8_t>(count * preparation.width())};
  std::vector<float> scratch(preparation.width());
  quantize_each_row(preparation, rows.data(), count, scratch.data(), result.sizes.data(), result.offsets.data(),
                    result.integers.data());
  return result;
}

void check_each_row(const RowPreparation& preparation, const std::vector<float>& rows, std::size_t count) {
  const OwnRanges result = each_row(preparation, rows, count);
  for (std::size_t r = 0; r < count; ++r) {
    const std::vector<double> exact = prepared(preparation, rows.data() + r * preparation.depth);
    double low = 0, high = 0;
    for (const double value : exact) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
    CHECK(result.sizes[r] > 0);
    const double zero_point = kMiddle - static_cast<double>(result.offsets[r]);
    CHECK(zero_point == std::round(zero_point));
    CHECK(zero_point >= 0);
    CHECK(zero_point <= 255);
    std::size_t wrong = 0;
    for (std::size_t j = 0; j < exact.size(); ++j) {
      const double got = result.sizes[r] * (result.integers[r * exact.size() + j] - zero_point);
      // Half a step, and half of one more where rounding the zero point put an end out of range.
      if (!(std::abs(got - exact[j]) <= 1.01 * (high - low) / 255)) ++wrong;
      if (exact[j] == 0 && got != 0) ++wrong;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("rows are quantised as in double precision, whatever prepares them") {
  std::mt19937 random(20);
  std::normal_distribution<float> normal;
  for (const std::size_t depth : sizes_of({1, 7, 8, 31, 32, 33, 390, 1632})) {
    for (const std::size_t count : sizes_of({0, 1, 5})) {
      for (int form = 0; form < 8; ++form) {
        CAPTURE(depth);
        CAPTURE(count);
        CAPTURE(form);
        RowPreparation preparation;
        preparation.depth = depth;
        preparation.copies = (form & 1) != 0 ? depth / 3 + 1 : 0;
        std::vector<float> rows(depth * count), factors(preparation.width()), shifts(preparation.copies);
        std::vector<std::int64_t> columns(preparation.copies);
        for (float& value : rows) value = normal(random);
        for (float& value : factors) value = std::exp(normal(random));
        for (float& value : shifts) value = normal(random) / 8;
        for (std::int64_t& column : columns) column = static_cast<std::int64_t>(random() % depth);
        preparation.columns = columns.data();
        if ((form & 2) != 0) preparation.factors = factors.data();
        if ((form & 4) != 0) preparation.shifts = shifts.data();
        for (std::size_t r = 0; r < count; ++r) {  // from 1e-4 to 1e4, and one of zeros
          const float size = r == 1 ? 0.0f : std::pow(10.0f, 2.0f * static_cast<float>(r) - 4.0f);
          for (std::size_t j = 0; j < depth; ++j) rows[r * depth + j] *= size;
        }
        check_against_reference(preparation, rows, count);
        check_each_row(preparation, rows, count);
      }
    }
  }
}

TEST_CASE("rows of tiny and of huge values keep their resolution where each has its own range") {
  for (const float size : {1e-36f, 1e-20f, 1e20f, 3e38f}) {
    CAPTURE(size);
    RowPreparation preparation;
    preparation.depth = 33;
    std::vector<float> rows(66);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = size * (static_cast<float>(static_cast<int>(i) - 33) / 33);
    check_each_row(preparation, rows, 2);
    CHECK(each_row(preparation, rows, 2).integers[0] == 0);
  }
  RowPreparation preparation;
  preparation.depth = 2;
  const OwnRanges zeros = each_row(preparation, {0.0f, 0.0f}, 1);
  CHECK(zeros.integers[0] == zeros.integers[1]);
  CHECK(zeros.integers[0] - kMiddle + zeros.offsets[0] == 0);
}

TEST_CASE("the ends of a row of one sign are its ends") {
  RowPreparation preparation;
  preparation.depth = 3;
  const OwnRanges result = each_row(preparation, {1.0f, 4.0f, 3.0f, -1.0f, -4.0f, -3.0f}, 2);
  CHECK(result.integers == std::vector<std::uint8_t>{64, 255, 191, 191, 0, 64});
  CHECK(result.offsets == std::vector<float>{128, -127});
}

TEST_CASE("the zero point is at an end where all values have one sign") {
  for (const std::size_t depth : sizes_of({1, 8, 33})) {
    std::vector<float> rows(depth, 2.0f);
    Result result = plain(rows);
    CHECK(result.quantization.zero_point == 0);
    CHECK(result.integers == std::vector<std::uint8_t>(depth, 255));
    for (float& value : rows) value = -2.0f;
    result = plain(rows);
    CHECK(result.quantization.zero_point == 255);
    CHECK(result.integers == std::vector<std::uint8_t>(depth, 0));
  }
}

TEST_CASE("ties go to the even integer, in blocks and behind them") {
  RowPreparation preparation;
  preparation.depth = 37;
  std::vector<float> rows(37);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i) + 0.5f;
  std::vector<std::uint8_t> integers(37);
  quantize_rows(preparation, rows.data(), 1, {1.0f, 0}, nullptr, integers.data());
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(integers[i] == (i % 2 == 0 ? i : i + 1));
}

TEST_CASE("NaN leaves the others' range, infinity makes the scale NaN; the integers are defined") {
  for (const std::size_t at : {std::size_t{3}, std::size_t{34}}) {  // in a block of vectors, and behind
    for (const float odd : {kNan, kInfinity, -kInfinity}) {
      CAPTURE(odd);
      std::vector<float> rows(35, 1.0f);
      rows[at] = odd;
      RowPreparation preparation;
      preparation.depth = rows.size();
      const Result result = quantized(preparation, rows, 1);
      const OwnRanges own = each_row(preparation, rows, 1);
      CHECK(std::isnan(result.quantization.scale) == std::isinf(odd));
      CHECK(std::isnan(own.sizes[0]) == std::isinf(odd));
      if (std::isnan(odd)) {
        CHECK(result.quantization.scale == 1.0f / 255);
        CHECK(own.sizes[0] == 1.0f / 255);
        CHECK(result.extent.high == 1.0f);
        CHECK(result.integers[at] == 0);
        CHECK(result.integers[0] == 255);
        CHECK(own.integers[at] == 0);
        CHECK(own.integers[0] == 255);
      } else {
        CHECK(quantized(preparation, rows, 1).integers == result.integers);
        CHECK(each_row(preparation, rows, 1).integers == own.integers);
      }
    }
  }
}

TEST_CASE("a range of nothing has a scale of 1, one of more than a float holds has none") {
  for (const Extent extent : {Extent{0, 0}, Extent{0, 1e-38f}}) {
    CHECK(quantization_of(extent).scale == 1.0f);
    CHECK(quantization_of(extent).zero_point == 0);
  }
  for (const Extent extent : {Extent{-3e38f, 3e38f}, Extent{0, kInfinity}, Extent{-kInfinity, 0}}) {
    CHECK(std::isnan(quantization_of(extent).scale));
    CHECK(quantization_of(extent).zero_point == 0);
  }
  CHECK(quantization_of({-1, 0}).zero_point == 255);
  CHECK(quantization_of({0, 1}).zero_point == 0);
  CHECK(quantization_of({-1, 3}).zero_point == 64);
  CHECK(quantization_of({0, 3e38f}).scale == doctest::Approx(3e38 / 255));
}

struct InTerms {
  std::vector<float> sizes[2];
  std::vector<std::uint8_t> integers[2];

  [[nodiscard]] double value(std::size_t row, std::size_t index) const {
    double sum = 0;
    for (const int term : {0, 1}) {
      sum += static_cast<double>(sizes[term][row]) * (integers[term][index] - kMiddle);
    }
    return sum;
  }
};

InTerms in_terms(const RowPreparation& preparation, const std::vector<float>& rows, std::size_t count) {
  InTerms result;
  Terms terms;
  for (const int term : {0, 1}) {
    result.sizes[term].resize(count);
    result.integers[term].resize(count * preparation.width());
    terms.sizes[term] = result.sizes[term].data();
    terms.out[term] = result.integers[term].data();
  }
  std::vector<float> scratch(preparation.width());
  quantize_in_terms(preparation, rows.data(), count, scratch.data(), terms);
  return result;
}

TEST_CASE("two terms of 8 bits hold a row to a 64,000th of its largest value") {
  std::mt19937 random(22);
  std::normal_distribution<float> normal;
  for (const std::size_t depth : sizes_of({1, 7, 31, 32, 33, 390})) {
    for (const std::size_t copies : sizes_of({0, 5})) {
      RowPreparation preparation;
      preparation.depth = depth;
      preparation.copies = copies;
      const std::size_t count = 6, width = preparation.width();
      std::vector<float> rows(depth * count), factors(width), shifts(copies);
      std::vector<std::int64_t> columns(copies);
      for (float& value : factors) value = std::exp(normal(random));
      for (float& value : shifts) value = normal(random);
      for (std::int64_t& column : columns) column = static_cast<std::int64_t>(random() % depth);
      preparation.columns = columns.data();
      preparation.factors = factors.data();
      preparation.shifts = shifts.data();
      const float scales[] = {1.0f, 1e-30f, 0.0f, 1e30f, 1e-5f, 300.0f};
      for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = normal(random) * scales[i / depth];
      const InTerms result = in_terms(preparation, rows, count);
      std::size_t wrong = 0;
      for (std::size_t r = 0; r < count; ++r) {
        const std::vector<double> exact = prepared(preparation, rows.data() + r * depth);
        double largest = 0;
        for (const double value : exact) largest = std::max(largest, std::abs(value));
        for (std::size_t j = 0; j < width; ++j) {
          const double error = std::abs(result.value(r, r * width + j) - exact[j]);
          if (!(error <= largest / (127 * 254) * 0.52)) ++wrong;
          for (const int term : {0, 1}) {
            if (result.integers[term][r * width + j] == 0) ++wrong;
          }
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("in two terms, a value that is no number is the least, and the others keep theirs") {
  for (const std::size_t at : {std::size_t{3}, std::size_t{34}}) {
    std::vector<float> rows(35, 1.0f);
    rows[at] = kNan;
    RowPreparation preparation;
    preparation.depth = rows.size();
    const InTerms result = in_terms(preparation, rows, 1);
    CHECK(result.value(0, at) == doctest::Approx(-1));
    CHECK(result.value(0, 0) == doctest::Approx(1));
  }
  // The least that a float can be keeps its sign and a row of zeros stays one.
  RowPreparation preparation;
  preparation.depth = 2;
  const InTerms result = in_terms(preparation, {1e-45f, -1e-38f, 0.0f, 0.0f}, 2);
  CHECK(result.value(0, 1) < 0);
  CHECK(result.sizes[0][1] > 0);
  CHECK(result.value(1, 2) == 0);
  CHECK(result.value(1, 3) == 0);
}

TEST_CASE("GELU of rows that come back is that of double precision, to 2e-6 of the value") {
  std::mt19937 random(23);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const std::size_t width : sizes_of({0, 1, 7, 8, 33, 4001})) {
    std::vector<float> rows(2 * width), out(2 * width);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i] = uniform(random) * std::pow(10.0f, 4 * uniform(random));  // to 1e4, most of them near 1
    }
    for (std::size_t i = 0; i < width; ++i) rows[i] = -8 + 16 * static_cast<float>(i) / static_cast<float>(width);
    const std::vector<float> sizes = {1.0f, 0.5f};
    Rescaling rescaling;
    rescaling.width = width;
    rescaling.sizes = sizes.data();
    rescaling.gelu = true;
    rescale_rows(rescaling, rows.data(), 2, out.data());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double x = static_cast<double>(rows[i]) * sizes[i / width];
      if (!(std::abs(out[i] - x / 2 * (1 + std::erf(x / std::sqrt(2.0)))) <= 2e-6 * std::abs(x))) ++wrong;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("rows come back to scale, with a bias and without") {
  std::mt19937 random(21);
  std::normal_distribution<float> normal;
  for (const std::size_t width : sizes_of({0, 1, 7, 8, 33, 390})) {
    for (const std::size_t count : sizes_of({0, 1, 5})) {
      std::vector<float> rows(width * count), sizes(count), bias(width), out(width * count);
      std::vector<float> more(width * count), more_sizes(count), sums(width);
      for (std::vector<float>* const of : {&rows, &sizes, &bias, &more, &more_sizes, &sums}) {
        for (float& value : *of) value = normal(random);
      }
      for (const bool with_bias : {false, true}) {
        for (const int form : {0, 1, 2}) {  // plain, two terms, with offsets
          Rescaling rescaling;
          rescaling.width = width;
          rescaling.sizes = sizes.data();
          if (form == 1) {
            rescaling.second = more.data();
            rescaling.second_sizes = more_sizes.data();
          } else if (form == 2) {
            rescaling.offsets = more_sizes.data();
            rescaling.sums = sums.data();
          }
          if (with_bias) rescaling.bias = bias.data();
          std::fill(out.begin(), out.end(), kNan);
          rescale_rows(rescaling, rows.data(), count, out.data());
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < out.size(); ++i) {
            const std::size_t r = i / width, j = i % width;
            double exact = static_cast<double>(rows[i]) * sizes[r] + (with_bias ? bias[j] : 0.0f);
            if (form == 1) exact += static_cast<double>(more[i]) * more_sizes[r];
            if (form == 2) exact += static_cast<double>(more_sizes[r]) * sums[j] * sizes[r];
            if (!(std::abs(out[i] - exact) <= 5e-6 * (1 + std::abs(exact)))) ++wrong;
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

}  // namespace
