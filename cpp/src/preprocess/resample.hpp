// Antialiased resampling of 8-bit images.

#ifndef EDGEBUILD_SRC_PREPROCESS_RESAMPLE_HPP_
#define EDGEBUILD_SRC_PREPROCESS_RESAMPLE_HPP_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "preprocess/spec.hpp"

namespace edgebuild::preprocess {

/// For each of some output positions along one axis: which inputs it is made of, and their weights.
///
/// The weights of a position are a filter (triangle, or the cubic with a = -0.5) over the distance in pixels, stretched
/// by the factor of a reduction; they add up to 1, in fixed point with kBits bits after the point.
class Weights {
 public:
  static constexpr int kBits = 22;

  struct Taps {
    std::int64_t first;                    ///< Index of the first input.
    std::span<const std::int32_t> values;  ///< Never empty; first + size <= the input's size.
  };

  /// @param begin, count  The output positions that are wanted, within 0 to `output`.
  /// All sizes are positive. Throws std::bad_alloc.
  Weights(std::int64_t input, std::int64_t output, std::int64_t begin, std::int64_t count, Interpolation interpolation);

  [[nodiscard]] std::size_t size() const noexcept { return first_.size(); }
  [[nodiscard]] Taps operator[](std::size_t index) const noexcept {
    return {first_[index], std::span(values_).subspan(offset_[index], offset_[index + 1] - offset_[index])};
  }
  /// The inputs that are used at all: from `first_input()` to below `end_input()`.
  [[nodiscard]] std::int64_t first_input() const noexcept { return first_input_; }
  [[nodiscard]] std::int64_t end_input() const noexcept { return end_input_; }

 private:
  std::vector<std::int64_t> first_;
  std::vector<std::size_t> offset_;
  std::vector<std::int32_t> values_;
  std::int64_t first_input_ = 0;
  std::int64_t end_input_ = 0;
};

/// One row across: `out` gets `weights.size()` pixels of `channels` bytes.
void resample_row(std::span<const std::uint8_t> row, std::size_t channels, const Weights& weights,
                  std::span<std::uint8_t> out) noexcept;

/// One output row out of several: `rows` holds the input rows from `weights.first_input()` on, each of `out.size()`
/// bytes.
void resample_column(std::span<const std::uint8_t> rows, const Weights& weights, std::size_t index,
                     std::span<std::uint8_t> out) noexcept;

}  // namespace edgebuild::preprocess

#endif  // EDGEBUILD_SRC_PREPROCESS_RESAMPLE_HPP_
