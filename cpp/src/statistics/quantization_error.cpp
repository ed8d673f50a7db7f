#include "statistics/quantization_error.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace edgebuild::statistics {
namespace {

// To the nearest whole number, halves to even, for |x| < 2^51: std::rint is a call where SSE4.1 is not assumed.
double nearest(double x) noexcept {
  constexpr double kShift = 0x1.8p52;
  return (x + kShift) - kShift;
}

// A bin narrower than this share of a step is taken for one value: the difference of two integrals would say nothing.
constexpr double kNarrow = 1e-3;

// The integral from 0 to x of (t - nearest grid point)^2: step^3 / 12 for each whole step, then what is left of one,
// and (t - end)^2 beyond the grid's ends.
double integral(const Quantizer& q, double inverse, double x) noexcept {
  const double inside = std::clamp(x, q.first, q.last);
  const double whole = nearest(inside * inverse);
  const double rest = inside - whole * q.step;
  const double beyond = x - inside;
  return whole * q.step * q.step * q.step / 12 + (rest * rest * rest + beyond * beyond * beyond) / 3;
}

double at(const Quantizer& q, double inverse, double x) noexcept {
  const double inside = std::clamp(x, q.first, q.last);
  const double error = x - nearest(inside * inverse) * q.step;
  return error * error;
}

double mean_square(double lower, double upper) noexcept { return (lower * lower + lower * upper + upper * upper) / 3; }

}  // namespace

Quantizer::Quantizer(double low, double high, std::int64_t levels, bool symmetric) noexcept
    : step((high - low) / static_cast<double>(levels - 1)),
      zero(symmetric ? static_cast<double>(levels / 2)
                     : std::clamp(nearest(-low / step), 0.0, static_cast<double>(levels - 1))),
      first(-zero * step),
      last((static_cast<double>(levels - 1) - zero) * step) {}

std::vector<double> squared_errors(const Bins& bins, std::span<const Quantizer> quantizers) {
  const std::size_t size = bins.counts.size();
  std::vector<double> squares(size + 1, 0.0);  // running sums of the values' squares
  for (std::size_t i = 0; i < size; ++i) {
    squares[i + 1] = squares[i] + bins.counts[i] * mean_square(bins.lower[i], bins.upper[i]);
  }
  std::vector<double> errors;
  errors.reserve(quantizers.size());
  for (const Quantizer& q : quantizers) {
    const double inverse = 1 / q.step, half = q.step / 2, narrow = kNarrow * q.step;
    // Bins of values that become zero cost what they are, all together. There are many: the bins get ever finer towards
    // zero.
    const auto begin =
        static_cast<std::size_t>(std::lower_bound(bins.lower.begin(), bins.lower.end(), -half) - bins.lower.begin());
    const auto end = std::max(
        begin,
        static_cast<std::size_t>(std::upper_bound(bins.upper.begin(), bins.upper.end(), half) - bins.upper.begin()));
    double error = squares[end] - squares[begin];
    const auto take = [&](std::size_t from, std::size_t to) {
      for (std::size_t i = from; i < to; ++i) {
        const double lower = bins.lower[i], upper = bins.upper[i], width = upper - lower;
        const double mean = width < narrow ? at(q, inverse, (lower + upper) / 2)
                                           : (integral(q, inverse, upper) - integral(q, inverse, lower)) / width;
        error += bins.counts[i] * mean;
      }
    };
    take(0, begin);
    take(end, size);
    errors.push_back(error);
  }
  return errors;
}

}  // namespace edgebuild::statistics
