#include "statistics/elements.hpp"

#include <bit>
#include <cstdint>

namespace edgebuild::statistics {
namespace {

struct Half {
  std::uint16_t bits;
};
struct Brain {
  std::uint16_t bits;
};

float widen(Half half) noexcept {
  const std::uint32_t sign = (half.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (half.bits >> 10) & 0x1fu;
  const std::uint32_t mantissa = half.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and what is below 2^-14
  return sign != 0 ? -magnitude : magnitude;
}

float widen(Brain brain) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(brain.bits) << 16); }

template <typename T>
float widen(T value) noexcept {
  return static_cast<float>(value);
}

template <typename T>
void convert(const void* data, std::size_t begin, std::size_t count, float* target) noexcept {
  const T* const source = static_cast<const T*>(data) + begin;
  for (std::size_t i = 0; i < count; ++i) target[i] = widen(source[i]);
}

}  // namespace

std::size_t element_bytes(DType dtype) noexcept { return is_supported(dtype) ? dtype_bits(dtype) / 8 : 0; }

bool is_supported(DType dtype) noexcept {
  switch (dtype) {
    case EB_FLOAT32:
    case EB_FLOAT64:
    case EB_FLOAT16:
    case EB_BFLOAT16:
    case EB_BOOL:
    case EB_UINT8:
    case EB_INT8:
    case EB_UINT16:
    case EB_INT16:
    case EB_UINT32:
    case EB_INT32:
    case EB_UINT64:
    case EB_INT64:
      return true;
    default:
      return false;
  }
}

void to_float32(DType dtype, const void* data, std::size_t begin, std::size_t count, float* target) noexcept {
  switch (dtype) {
    case EB_FLOAT32:
      return convert<float>(data, begin, count, target);
    case EB_FLOAT64:
      return convert<double>(data, begin, count, target);
    case EB_FLOAT16:
      return convert<Half>(data, begin, count, target);
    case EB_BFLOAT16:
      return convert<Brain>(data, begin, count, target);
    case EB_BOOL:
    case EB_UINT8:
      return convert<std::uint8_t>(data, begin, count, target);
    case EB_INT8:
      return convert<std::int8_t>(data, begin, count, target);
    case EB_UINT16:
      return convert<std::uint16_t>(data, begin, count, target);
    case EB_INT16:
      return convert<std::int16_t>(data, begin, count, target);
    case EB_UINT32:
      return convert<std::uint32_t>(data, begin, count, target);
    case EB_INT32:
      return convert<std::int32_t>(data, begin, count, target);
    case EB_UINT64:
      return convert<std::uint64_t>(data, begin, count, target);
    case EB_INT64:
      return convert<std::int64_t>(data, begin, count, target);
    default:
      return;
  }
}

}  // namespace edgebuild::statistics
