// Histogram: the distribution of a tensor's values over any number of batches, in memory that does not grow with them.

#ifndef EDGEBUILD_SRC_STATISTICS_HISTOGRAM_HPP_
#define EDGEBUILD_SRC_STATISTICS_HISTOGRAM_HPP_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::statistics {

/// Counters in zeroed pages of their own: only those that are touched take memory.
class Pages {
 public:
  Pages() noexcept = default;
  /// Empty (`data() == nullptr`) if there is no memory.
  explicit Pages(std::size_t bytes) noexcept;
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  ~Pages();

  [[nodiscard]] void* data() const noexcept { return data_; }
  /// Zeroes all and gives the memory back.
  void clear() noexcept;

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Counts values by the upper 16 bits of their float32 pattern: sign, exponent and 7 bits of mantissa.
///
/// No range has to be known ahead, a bin is at most 1/128 of its values wide, and neither the order of the values nor
/// how they were split into batches changes the result. Zero has bins of its own (with what is below 2^-133).
/// The smallest and the largest value are exact. NaN and infinities are counted apart.
/// Threads: one caller at a time.
class Histogram {
 public:
  static constexpr std::size_t kBins = std::size_t{1} << 16;

  struct Bin {
    std::uint16_t key;  ///< Upper half of the float32 pattern.
    std::uint64_t count;
  };

  /// kResourceExhausted: no memory.
  [[nodiscard]] static Result<Histogram> make();

  /// Counts the elements of a contiguous array; what is not float32 is converted (see to_float32).
  ///
  /// @param data               Aligned for `dtype`; not kept.
  /// @param first_not_finite   Set to the index of the first NaN or infinity, if there is one; may be null.
  /// @return kInvalidArgument if `dtype` has no statistics; kResourceExhausted.
  [[nodiscard]] Status add(DType dtype, const void* data, std::size_t count,
                           std::optional<std::size_t>* first_not_finite = nullptr);

  /// As if all that `other` got had been added here too. kResourceExhausted.
  [[nodiscard]] Status merge(const Histogram& other);

  /// Finite values so far.
  [[nodiscard]] std::uint64_t count() const noexcept { return count_ - not_finite_; }
  [[nodiscard]] std::uint64_t not_finite() const noexcept { return not_finite_; }
  /// Smallest finite value; infinity if there is none.
  [[nodiscard]] float low() const noexcept { return low_; }
  /// Largest finite value; minus infinity if there is none.
  [[nodiscard]] float high() const noexcept { return high_; }
  /// The bins of finite values that are not empty, in ascending order of their values.
  [[nodiscard]] std::vector<Bin> bins() const;

 private:
  Histogram() noexcept = default;
  [[nodiscard]] Status add_floats(const float* data, std::size_t count, std::optional<std::size_t>* first);
  [[nodiscard]] Status fold();
  [[nodiscard]] std::uint64_t count_of(std::size_t key) const noexcept;
  [[nodiscard]] std::uint64_t count_not_finite() const noexcept;

  // Neighbours in memory go to different counters of a bin: a run of equal values (the zeros behind a ReLU) would
  // otherwise wait for its own store each time.
  static constexpr std::size_t kLanes = 4;

  Pages lanes_;                // uint32[kBins][kLanes]
  Pages totals_;               // uint64[kBins]; only once the lanes could overflow
  std::uint64_t pending_ = 0;  // elements that the lanes hold
  std::uint64_t count_ = 0;    // with those that are not finite
  std::uint64_t not_finite_ = 0;
  float low_ = std::numeric_limits<float>::infinity();
  float high_ = -std::numeric_limits<float>::infinity();
};

}  // namespace edgebuild::statistics

#endif  // EDGEBUILD_SRC_STATISTICS_HISTOGRAM_HPP_
