// Elements of any numeric dtype as float32, in blocks, so that statistics have one inner loop.

#ifndef EDGEBUILD_SRC_STATISTICS_ELEMENTS_HPP_
#define EDGEBUILD_SRC_STATISTICS_ELEMENTS_HPP_

#include <cstddef>

#include "edgebuild/signature.hpp"

namespace edgebuild::statistics {

/// Elements that are converted at once: small enough for the first-level cache.
inline constexpr std::size_t kBlock = 1024;

/// Whether statistics take this dtype: bool, integers and floats of 8 to 64 bits but the 8-bit floats.
[[nodiscard]] bool is_supported(DType dtype) noexcept;

/// Bytes of one element; 0 if `dtype` is not supported.
[[nodiscard]] std::size_t element_bytes(DType dtype) noexcept;

/// Converts `count` elements from index `begin` on; a value that float32 can't hold becomes infinity or the nearest
/// one.
///
/// @param data    A contiguous array of `dtype` (supported), aligned for it.
/// @param target  Room for `count` elements.
void to_float32(DType dtype, const void* data, std::size_t begin, std::size_t count, float* target) noexcept;

}  // namespace edgebuild::statistics

#endif  // EDGEBUILD_SRC_STATISTICS_ELEMENTS_HPP_
