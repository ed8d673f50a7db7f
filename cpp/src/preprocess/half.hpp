// float32 -> float16.

#ifndef EDGEBUILD_SRC_PREPROCESS_HALF_HPP_
#define EDGEBUILD_SRC_PREPROCESS_HALF_HPP_

#include <bit>
#include <cstdint>

namespace edgebuild::preprocess {

/// The bits of the nearest float16, ties to even; what is too large becomes an infinity. Not for NaN.
[[nodiscard]] constexpr std::uint16_t to_half(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // 65536 and above
  if (magnitude < 0x33000000u) return sign;                                         // below 2^-25
  std::uint32_t mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
  const auto exponent = static_cast<std::int32_t>(magnitude >> 23) - 127;
  // Normal numbers lose 13 bits; those below 2^-14 lose one more for each power of two.
  const std::uint32_t lost = exponent >= -14 ? 13u : static_cast<std::uint32_t>(-1 - exponent);
  const std::uint32_t rest = mantissa & ((1u << lost) - 1u);
  const std::uint32_t half = 1u << (lost - 1u);
  mantissa >>= lost;
  if (rest > half || (rest == half && (mantissa & 1u) != 0)) ++mantissa;  // may carry into the exponent, as it should
  // The leading bit of a normal number adds one to the exponent, so it is counted from one less.
  const std::uint32_t base = exponent >= -14 ? static_cast<std::uint32_t>(exponent + 14) << 10 : 0u;
  return static_cast<std::uint16_t>(sign | (base + mantissa));
}

}  // namespace edgebuild::preprocess

#endif  // EDGEBUILD_SRC_PREPROCESS_HALF_HPP_
