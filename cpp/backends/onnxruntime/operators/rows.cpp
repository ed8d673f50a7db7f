// Written with the compilers' vector types, because they leave loops with comparisons of floats to scalars. On x86
// everything is compiled twice, for the baseline and for AVX2, without fused multiplication, so that both give the same
// bits. A NaN is never the greater of two, so it has no part in an extent.

#include "onnxruntime/operators/rows.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace edgebuild::onnxruntime {
namespace {

using Floats = float __attribute__((vector_size(32)));
using Ints = std::int32_t __attribute__((vector_size(32)));
constexpr std::size_t kLanes = sizeof(Floats) / sizeof(float);

constexpr float kLeastSize = std::numeric_limits<float>::min();  // What a row of zeros is divided by.
// 1.5 * 2^23: added to a float of magnitude up to 2^22 it leaves the nearest integer, ties to even, in the last bits.
constexpr float kRounder = 12582912.0f;
constexpr std::size_t kBlock = 4 * kLanes;  // Integers that are narrowed together.

/// One row, prepared but for its scale.
[[gnu::always_inline]] inline const float* prepare(const RowPreparation& preparation, const float* row,
                                                   float* scratch) noexcept {
  const std::size_t depth = preparation.depth;
  if (preparation.factors == nullptr && preparation.copies == 0) return row;
  if (preparation.factors != nullptr) {
    const float* const factors = preparation.factors;
    for (std::size_t j = 0; j < depth; ++j) scratch[j] = row[j] * factors[j];
  } else {
    std::copy_n(row, depth, scratch);
  }
  for (std::size_t i = 0; i < preparation.copies; ++i) {
    float value = row[preparation.columns[i]];
    if (preparation.shifts != nullptr) value += preparation.shifts[i];
    if (preparation.factors != nullptr) value *= preparation.factors[depth + i];
    scratch[depth + i] = value;
  }
  return scratch;
}

// The values of one vector, from and to any address. A macro: vectors wider than the baseline's registers are no
// arguments.
#define EDGEBUILD_LOAD(vector, from) std::memcpy(&(vector), (from), sizeof(vector))
#define EDGEBUILD_STORE(to, vector) std::memcpy((to), &(vector), sizeof(vector))

[[gnu::always_inline]] inline Extent extent_of(const float* values, std::size_t count) noexcept {
  Floats low = {};
  Floats high = {};
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Floats value;
    EDGEBUILD_LOAD(value, values + j);
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  Extent extent;
  for (std::size_t lane = 0; lane < kLanes; ++lane) extent.include({low[lane], high[lane]});
  for (; j < count; ++j) extent.include({values[j], values[j]});
  return extent;
}

[[gnu::always_inline]] inline Extent measure(const RowPreparation& preparation, const float* rows, std::size_t count,
                                             float* sizes, float* scratch) noexcept {
  Extent extent;
  for (std::size_t r = 0; r < count; ++r) {
    const float* const values = prepare(preparation, rows + r * preparation.depth, scratch);
    Extent own = extent_of(values, preparation.width());
    if (preparation.scale_rows) {
      const float size = std::max({-own.low, own.high, kLeastSize});
      sizes[r] = size;
      own = {own.low / size, own.high / size};
    }
    extent.include(own);
  }
  return extent;
}

[[gnu::always_inline]] inline void quantize(const RowPreparation& preparation, const float* rows, std::size_t count,
                                            const float* sizes, const Quantization& quantization, float* scratch,
                                            std::uint8_t* out) noexcept {
  const std::size_t width = preparation.width();
  const float least = -static_cast<float>(quantization.zero_point);
  const float most = 255.0f + least;
  const float by_scale = 1.0f / quantization.scale;
  for (std::size_t r = 0; r < count; ++r) {
    const float* const values = prepare(preparation, rows + r * preparation.depth, scratch);
    // Two factors: their product may be beyond what a float holds where a row is next to nothing.
    const float by_size = preparation.scale_rows ? 1.0f / sizes[r] : 1.0f;
    std::uint8_t* const integers = out + r * width;
    std::size_t j = 0;
    for (; j + kBlock <= width; j += kBlock) {
      std::int32_t block[kBlock];
      for (std::size_t k = 0; k < kBlock; k += kLanes) {
        Floats value;
        EDGEBUILD_LOAD(value, values + j + k);
        value = (value * by_size) * by_scale;
        value = value > least ? value : Floats{} + least;  // a NaN becomes the least
        value = value < most ? value : Floats{} + most;
        value = value + kRounder;
        Ints integer;
        EDGEBUILD_LOAD(integer, &value);
        integer += quantization.zero_point;
        EDGEBUILD_STORE(block + k, integer);
      }
      for (std::size_t k = 0; k < kBlock; ++k) integers[j + k] = static_cast<std::uint8_t>(block[k]);
    }
    for (; j < width; ++j) {
      float value = (values[j] * by_size) * by_scale;
      value = value > least ? value : least;
      value = value < most ? value : most;
      integers[j] = static_cast<std::uint8_t>(std::bit_cast<std::int32_t>(value + kRounder) + quantization.zero_point);
    }
  }
}

[[gnu::always_inline]] inline void rescale(const float* rows, std::size_t count, std::size_t width, const float* sizes,
                                           const float* bias, float* out) noexcept {
  for (std::size_t r = 0; r < count; ++r) {
    const float size = sizes[r];
    const float* const row = rows + r * width;
    float* const result = out + r * width;
    if (bias == nullptr) {
      for (std::size_t j = 0; j < width; ++j) result[j] = row[j] * size;
    } else {
      for (std::size_t j = 0; j < width; ++j) result[j] = row[j] * size + bias[j];
    }
  }
}

#if defined(__x86_64__)

bool has_avx2() noexcept {
  static const bool has = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    constexpr unsigned kOsxsave = 1u << 27, kAvx = 1u << 28, kAvx2 = 1u << 5;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
    if ((ecx & kOsxsave) == 0 || (ecx & kAvx) == 0) return false;
    unsigned state = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if ((state & 6u) != 6u) return false;  // The system does not save the registers.
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
    return (ebx & kAvx2) != 0;
  }();
  return has;
}

__attribute__((target("avx2"))) Extent measure_avx2(const RowPreparation& preparation, const float* rows,
                                                    std::size_t count, float* sizes, float* scratch) noexcept {
  return measure(preparation, rows, count, sizes, scratch);
}

__attribute__((target("avx2"))) void quantize_avx2(const RowPreparation& preparation, const float* rows,
                                                   std::size_t count, const float* sizes,
                                                   const Quantization& quantization, float* scratch,
                                                   std::uint8_t* out) noexcept {
  quantize(preparation, rows, count, sizes, quantization, scratch, out);
}

__attribute__((target("avx2"))) void rescale_avx2(const float* rows, std::size_t count, std::size_t width,
                                                  const float* sizes, const float* bias, float* out) noexcept {
  rescale(rows, count, width, sizes, bias, out);
}

#endif

}  // namespace

Extent measure_rows(const RowPreparation& preparation, const float* rows, std::size_t count, float* sizes,
                    float* scratch) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return measure_avx2(preparation, rows, count, sizes, scratch);
#endif
  return measure(preparation, rows, count, sizes, scratch);
}

Quantization quantization_of(const Extent& extent) noexcept {
  const float scale = (extent.high - extent.low) / 255.0f;
  // Also where the range is not finite or below what float can divide by: nothing better is to be had there.
  if (!(scale >= kLeastSize) || !std::isfinite(scale)) return {};
  const float zero_point = std::nearbyint(std::clamp(-extent.low / scale, 0.0f, 255.0f));
  return {scale, static_cast<std::uint8_t>(zero_point)};
}

void quantize_rows(const RowPreparation& preparation, const float* rows, std::size_t count, const float* sizes,
                   const Quantization& quantization, float* scratch, std::uint8_t* out) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return quantize_avx2(preparation, rows, count, sizes, quantization, scratch, out);
#endif
  quantize(preparation, rows, count, sizes, quantization, scratch, out);
}

void rescale_rows(const float* rows, std::size_t count, std::size_t width, const float* sizes, const float* bias,
                  float* out) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return rescale_avx2(rows, count, width, sizes, bias, out);
#endif
  rescale(rows, count, width, sizes, bias, out);
}

}  // namespace edgebuild::onnxruntime
