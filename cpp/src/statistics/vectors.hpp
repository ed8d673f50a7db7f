// Four floats at once, in the compilers' own vector types: plain code for every instruction set, fast on the baseline
// of each.

#ifndef EDGEBUILD_SRC_STATISTICS_VECTORS_HPP_
#define EDGEBUILD_SRC_STATISTICS_VECTORS_HPP_

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace edgebuild::statistics {

inline constexpr std::size_t kFloats = 4;

using Floats = float __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(16)));

[[nodiscard]] inline Floats load(const float* data) noexcept {
  Floats values;
  std::memcpy(&values, data, sizeof values);
  return values;
}

[[nodiscard]] inline Floats floats_of(float value) noexcept { return Floats{value, value, value, value}; }

[[nodiscard]] inline float least(const Floats& values) noexcept {
  return std::min(std::min(values[0], values[1]), std::min(values[2], values[3]));
}

[[nodiscard]] inline float most(const Floats& values) noexcept {
  return std::max(std::max(values[0], values[1]), std::max(values[2], values[3]));
}

}  // namespace edgebuild::statistics

#endif  // EDGEBUILD_SRC_STATISTICS_VECTORS_HPP_
