#include "preprocess/resample.hpp"

#include <algorithm>
#include <cmath>

namespace edgebuild::preprocess {
namespace {

constexpr std::int32_t kHalf = std::int32_t{1} << (Weights::kBits - 1);

double triangle(double distance) noexcept { return std::max(0.0, 1.0 - std::fabs(distance)); }

// Keys' cubic convolution with a = -0.5.
double cubic(double distance) noexcept {
  constexpr double kA = -0.5;
  const double x = std::fabs(distance);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kA;
  return 0.0;
}

std::int32_t to_fixed(double weight) noexcept {
  return static_cast<std::int32_t>(std::lround(weight * static_cast<double>(std::int32_t{1} << Weights::kBits)));
}

// Negative weights, and those that were rounded up, may lead out of the range.
std::uint8_t to_byte(std::int32_t sum) noexcept {
  return static_cast<std::uint8_t>(std::clamp(sum >> Weights::kBits, 0, 255));
}

template <std::size_t kChannels>
void resample_pixels(const std::uint8_t* row, const Weights& weights, std::uint8_t* out) noexcept {
  for (std::size_t x = 0; x < weights.size(); ++x) {
    const Weights::Taps taps = weights[x];
    const std::uint8_t* pixel = row + static_cast<std::size_t>(taps.first) * kChannels;
    std::int32_t sums[kChannels];
    std::fill_n(sums, kChannels, kHalf);
    for (const std::int32_t weight : taps.values) {
      for (std::size_t c = 0; c < kChannels; ++c) sums[c] += weight * pixel[c];
      pixel += kChannels;
    }
    for (std::size_t c = 0; c < kChannels; ++c) *out++ = to_byte(sums[c]);
  }
}

}  // namespace

Weights::Weights(std::int64_t input, std::int64_t output, std::int64_t begin, std::int64_t count,
                 Interpolation interpolation) {
  const auto filter = interpolation == Interpolation::kBicubic ? cubic : triangle;
  const double step = static_cast<double>(input) / static_cast<double>(output);
  const double stretch = std::max(step, 1.0);  // a reduction averages over as many inputs as fall together
  const double squeeze = 1.0 / stretch;
  const double reach = (interpolation == Interpolation::kBicubic ? 2.0 : 1.0) * stretch;
  const auto positions = static_cast<std::size_t>(count);
  first_.reserve(positions);
  offset_.reserve(positions + 1);
  offset_.push_back(0);
  first_input_ = input;
  std::vector<double> raw;
  for (std::int64_t i = begin; i < begin + count; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * step;
    const auto low = std::max<std::int64_t>(static_cast<std::int64_t>(centre - reach + 0.5), 0);
    const auto high = std::min<std::int64_t>(static_cast<std::int64_t>(centre + reach + 0.5), input);
    raw.clear();
    double sum = 0.0;
    for (std::int64_t k = low; k < high; ++k) {
      raw.push_back(filter((static_cast<double>(k) - centre + 0.5) * squeeze));
      sum += raw.back();
    }
    const double unit = 1.0 / sum;
    for (const double weight : raw) values_.push_back(to_fixed(weight * unit));
    first_.push_back(low);
    offset_.push_back(values_.size());
    first_input_ = std::min(first_input_, low);
    end_input_ = std::max(end_input_, high);
  }
}

void resample_row(std::span<const std::uint8_t> row, std::size_t channels, const Weights& weights,
                  std::span<std::uint8_t> out) noexcept {
  if (channels == 1) {
    resample_pixels<1>(row.data(), weights, out.data());
  } else {
    resample_pixels<3>(row.data(), weights, out.data());
  }
}

void resample_column(std::span<const std::uint8_t> rows, const Weights& weights, std::size_t index,
                     std::span<std::uint8_t> out) noexcept {
  const Weights::Taps taps = weights[index];
  const std::size_t stride = out.size();
  const std::uint8_t* first = rows.data() + static_cast<std::size_t>(taps.first - weights.first_input()) * stride;
  for (std::size_t x = 0; x < stride; ++x) {
    std::int32_t sum = kHalf;
    const std::uint8_t* pixel = first + x;
    for (const std::int32_t weight : taps.values) {
      sum += weight * *pixel;
      pixel += stride;
    }
    out[x] = to_byte(sum);
  }
}

}  // namespace edgebuild::preprocess
