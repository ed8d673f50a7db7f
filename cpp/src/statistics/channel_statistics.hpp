// ChannelStatistics: extremes and moments of every channel of a tensor, over any number of batches.

#ifndef EDGEBUILD_SRC_STATISTICS_CHANNEL_STATISTICS_HPP_
#define EDGEBUILD_SRC_STATISTICS_CHANNEL_STATISTICS_HPP_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::statistics {

/// Smallest and largest value, sum and sum of squares (in double) of each index along one axis.
///
/// Batches may differ in every size but that of the axis. Their order does not matter but for rounding. NaN makes a
/// channel's sums NaN and is left out of its extremes; finding NaN is the histogram's business.
/// Threads: one caller at a time.
class ChannelStatistics {
 public:
  /// @param axis  Of the channels; negative: counted from the last one, -1.
  explicit ChannelStatistics(std::int64_t axis) noexcept : axis_(axis) {}

  /// Takes in a contiguous, row-major array; what is not float32 is converted (see to_float32).
  ///
  /// @return kInvalidArgument if the shape has no such axis, another number of channels than before, or a dtype without
  ///         statistics; nothing is taken in then.
  [[nodiscard]] Status add(DType dtype, const void* data, std::span<const std::int64_t> shape);

  /// As if all that `other` got had been added here too. kInvalidArgument if the channels or the axes differ.
  [[nodiscard]] Status merge(const ChannelStatistics& other);

  [[nodiscard]] std::int64_t axis() const noexcept { return axis_; }
  [[nodiscard]] std::size_t channels() const noexcept { return low_.size(); }
  /// Values of one channel so far.
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  /// By channel; infinity (low) and minus infinity (high) while the count is 0.
  [[nodiscard]] const std::vector<float>& low() const noexcept { return low_; }
  [[nodiscard]] const std::vector<float>& high() const noexcept { return high_; }
  [[nodiscard]] const std::vector<double>& sum() const noexcept { return sum_; }
  [[nodiscard]] const std::vector<double>& sum_of_squares() const noexcept { return squares_; }

 private:
  void add_slab(const float* data, std::size_t inner);

  std::int64_t axis_;
  bool started_ = false;
  std::uint64_t count_ = 0;
  std::vector<float> low_;
  std::vector<float> high_;
  std::vector<double> sum_;
  std::vector<double> squares_;
};

}  // namespace edgebuild::statistics

#endif  // EDGEBUILD_SRC_STATISTICS_CHANNEL_STATISTICS_HPP_
