// What quantising a distribution costs, from its bins.

#ifndef EDGEBUILD_SRC_STATISTICS_QUANTIZATION_ERROR_HPP_
#define EDGEBUILD_SRC_STATISTICS_QUANTIZATION_ERROR_HPP_

#include <cstdint>
#include <span>
#include <vector>

namespace edgebuild::statistics {

/// A uniform quantiser: `levels` values, `step` apart, the one at index `zero` is 0.
struct Quantizer {
  /// @param low, high  The range to cover; low <= 0 <= high and low < high.
  /// @param levels     2 or more.
  /// @param symmetric  Zero is the middle value; else it goes where the range has it, moving the range by up to half a
  /// step.
  Quantizer(double low, double high, std::int64_t levels, bool symmetric) noexcept;

  double step;
  double zero;  ///< A whole number from 0 to levels - 1.
  double first;
  double last;
};

/// Values spread evenly within bins: `counts[i]` of them from `lower[i]` to `upper[i]` (which may be equal). Ascending,
/// apart.
struct Bins {
  std::span<const double> lower;
  std::span<const double> upper;
  std::span<const double> counts;
};

/// Squared error of rounding and clipping, summed over all values, for each quantiser. Exact for such a distribution.
[[nodiscard]] std::vector<double> squared_errors(const Bins& bins, std::span<const Quantizer> quantizers);

}  // namespace edgebuild::statistics

#endif  // EDGEBUILD_SRC_STATISTICS_QUANTIZATION_ERROR_HPP_
