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

Quantization quantization_of(const Extent& extent) noexcept {
  const float scale = (extent.high - extent.low) / 255.0f;
  if (!std::isfinite(scale)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  if (scale < std::numeric_limits<float>::min()) return {};  // Below what float can divide by all are zero.
  const float zero_point = std::nearbyint(std::clamp(-extent.low / scale, 0.0f, 255.0f));
  return {scale, static_cast<std::uint8_t>(zero_point)};
}

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
                                             float* scratch) noexcept {
  Extent extent;
  for (std::size_t r = 0; r < count; ++r) {
    extent.include(extent_of(prepare(preparation, rows + r * preparation.depth, scratch), preparation.width()));
  }
  return extent;
}

/// Values, divided by `1 / by_size` and the scale, as integers.
[[gnu::always_inline]] inline void quantize_row(const float* values, std::size_t width, float by_size,
                                                const Quantization& quantization, std::uint8_t* integers) noexcept {
  const float least = -static_cast<float>(quantization.zero_point);
  const float most = 255.0f + least;
  const float by_scale = 1.0f / quantization.scale;
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

[[gnu::always_inline]] inline void quantize(const RowPreparation& preparation, const float* rows, std::size_t count,
                                            const Quantization& quantization, float* scratch,
                                            std::uint8_t* out) noexcept {
  for (std::size_t r = 0; r < count; ++r) {
    const float* const values = prepare(preparation, rows + r * preparation.depth, scratch);
    quantize_row(values, preparation.width(), 1.0f, quantization, out + r * preparation.width());
  }
}

/// What a row is divided by before its range is looked at: beyond its ends a float holds no range of 255 steps.
[[gnu::always_inline]] inline float size_of(const Extent& extent) noexcept {
  return std::max({-extent.low, extent.high, kLeastSize});
}

[[gnu::always_inline]] inline void quantize_each(const RowPreparation& preparation, const float* rows,
                                                 std::size_t count, float* scratch, float* sizes, float* offsets,
                                                 std::uint8_t* out) noexcept {
  const std::size_t width = preparation.width();
  for (std::size_t r = 0; r < count; ++r) {
    const float* const values = prepare(preparation, rows + r * preparation.depth, scratch);
    const Extent extent = extent_of(values, width);
    const float size = size_of(extent);
    const Quantization quantization = quantization_of({extent.low / size, extent.high / size});
    sizes[r] = size * quantization.scale;
    offsets[r] = static_cast<float>(kMiddle) - static_cast<float>(quantization.zero_point);
    quantize_row(values, width, 1.0f / size, quantization, out + r * width);
  }
}

constexpr float kMost = 127.0f;               // Of the integers of a term, counted from kMiddle.
constexpr float kSecondSteps = 2.0f * kMost;  // Steps of the second term in one of the first.

/// kBlock values, each divided by its row's size, as the integers of two terms. NaN becomes the least.
[[gnu::always_inline]] inline void split_block(const float* values, float by_size, std::uint8_t* first,
                                               std::uint8_t* second) noexcept {
  std::int32_t firsts[kBlock];
  std::int32_t seconds[kBlock];
  const Floats least = Floats{} - kMost;
  const Floats most = Floats{} + kMost;
  for (std::size_t k = 0; k < kBlock; k += kLanes) {
    Floats value;
    EDGEBUILD_LOAD(value, values + k);
    value = (value * by_size) * kMost;
    value = value > least ? value : least;
    value = value < most ? value : most;
    const Floats rounded = value + kRounder;
    const Floats rest = (value - (rounded - kRounder)) * kSecondSteps + kRounder;  // The difference is exact.
    EDGEBUILD_STORE(firsts + k, rounded);
    EDGEBUILD_STORE(seconds + k, rest);
  }
  for (std::size_t k = 0; k < kBlock; ++k) first[k] = static_cast<std::uint8_t>(firsts[k] + kMiddle);
  for (std::size_t k = 0; k < kBlock; ++k) second[k] = static_cast<std::uint8_t>(seconds[k] + kMiddle);
}

[[gnu::always_inline]] inline void split_in_terms(const RowPreparation& preparation, const float* rows,
                                                  std::size_t count, float* scratch, const Terms& terms) noexcept {
  const std::size_t width = preparation.width();
  for (std::size_t r = 0; r < count; ++r) {
    const float* const values = prepare(preparation, rows + r * preparation.depth, scratch);
    const float size = size_of(extent_of(values, width));
    terms.sizes[0][r] = size / kMost;
    terms.sizes[1][r] = size / kMost / kSecondSteps;
    const float by_size = 1.0f / size;  // Not taken together with kMost: beyond what a float holds for the least rows.
    std::uint8_t* const first = terms.out[0] + r * width;
    std::uint8_t* const second = terms.out[1] + r * width;
    std::size_t j = 0;
    for (; j + kBlock <= width; j += kBlock) split_block(values + j, by_size, first + j, second + j);
    if (j < width) {
      float last[kBlock] = {};
      std::uint8_t parts[2][kBlock];
      std::copy_n(values + j, width - j, last);
      split_block(last, by_size, parts[0], parts[1]);
      std::copy_n(parts[0], width - j, first + j);
      std::copy_n(parts[1], width - j, second + j);
    }
  }
}

/// A row plus, where `kAdded`, `factor * other`.
template <bool kAdded>
[[gnu::always_inline]] inline void rescale_row(const float* row, float size, const float* other, float factor,
                                               const float* bias, std::size_t width, float* out) noexcept {
  if (bias == nullptr) {
    for (std::size_t j = 0; j < width; ++j) out[j] = kAdded ? row[j] * size + other[j] * factor : row[j] * size;
  } else {
    for (std::size_t j = 0; j < width; ++j) {
      out[j] = (kAdded ? row[j] * size + other[j] * factor : row[j] * size) + bias[j];
    }
  }
}

// erf(z) is z * P(z * z) / Q(z * z) for |z| <= kErfEnd, where it is within 3.4e-6: fitted by least squares, reweighted
// until the largest error was least. Beyond, erf differs from 1 by less than that.
constexpr float kErfEnd = 3.4f;
constexpr float kErfP[] = {1.1283611059188843f, 0.15666967630386353f, 0.042855989187955856f, 0.0007264940068125725f};
constexpr float kErfQ[] = {1.0f, 0.4721119701862335f, 0.09538573771715164f, 0.009112704545259476f};

/// kLanes values.
[[gnu::always_inline]] inline void gelu_lanes(float* values) noexcept {
  constexpr float kRootOfHalf = 0.70710678118654752f;
  Floats x;
  EDGEBUILD_LOAD(x, values);
  Floats z = x * kRootOfHalf;
  z = z > -kErfEnd ? z : Floats{} - kErfEnd;
  z = z < kErfEnd ? z : Floats{} + kErfEnd;
  const Floats t = z * z;
  const Floats p = ((kErfP[3] * t + kErfP[2]) * t + kErfP[1]) * t + kErfP[0];
  const Floats q = ((kErfQ[3] * t + kErfQ[2]) * t + kErfQ[1]) * t + kErfQ[0];
  x = (x * 0.5f) * (1.0f + (z * p) / q);
  EDGEBUILD_STORE(values, x);
}

[[gnu::always_inline]] inline void gelu(float* values, std::size_t count) noexcept {
  std::size_t j = 0;
  for (; j + kLanes <= count; j += kLanes) gelu_lanes(values + j);
  if (j < count) {
    float last[kLanes] = {};
    std::copy_n(values + j, count - j, last);
    gelu_lanes(last);
    std::copy_n(last, count - j, values + j);
  }
}

[[gnu::always_inline]] inline void rescale(const Rescaling& rescaling, const float* rows, std::size_t count,
                                           float* out) noexcept {
  const std::size_t width = rescaling.width;
  for (std::size_t r = 0; r < count; ++r) {
    const float* const row = rows + r * width;
    float* const result = out + r * width;
    const float size = rescaling.sizes[r];
    if (rescaling.second != nullptr) {
      rescale_row<true>(row, size, rescaling.second + r * width, rescaling.second_sizes[r], rescaling.bias, width,
                        result);
    } else if (rescaling.offsets != nullptr) {
      rescale_row<true>(row, size, rescaling.sums, rescaling.offsets[r] * size, rescaling.bias, width, result);
    } else {
      rescale_row<false>(row, size, nullptr, 0, rescaling.bias, width, result);
    }
    if (rescaling.gelu) gelu(result, width);
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
                                                    std::size_t count, float* scratch) noexcept {
  return measure(preparation, rows, count, scratch);
}

__attribute__((target("avx2"))) void quantize_avx2(const RowPreparation& preparation, const float* rows,
                                                   std::size_t count, const Quantization& quantization, float* scratch,
                                                   std::uint8_t* out) noexcept {
  quantize(preparation, rows, count, quantization, scratch, out);
}

__attribute__((target("avx2"))) void quantize_each_avx2(const RowPreparation& preparation, const float* rows,
                                                        std::size_t count, float* scratch, float* sizes, float* offsets,
                                                        std::uint8_t* out) noexcept {
  quantize_each(preparation, rows, count, scratch, sizes, offsets, out);
}

__attribute__((target("avx2"))) void split_in_terms_avx2(const RowPreparation& preparation, const float* rows,
                                                         std::size_t count, float* scratch,
                                                         const Terms& terms) noexcept {
  split_in_terms(preparation, rows, count, scratch, terms);
}

__attribute__((target("avx2"))) void rescale_avx2(const Rescaling& rescaling, const float* rows, std::size_t count,
                                                  float* out) noexcept {
  rescale(rescaling, rows, count, out);
}

#endif

}  // namespace

Extent measure_rows(const RowPreparation& preparation, const float* rows, std::size_t count, float* scratch) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return measure_avx2(preparation, rows, count, scratch);
#endif
  return measure(preparation, rows, count, scratch);
}

void quantize_rows(const RowPreparation& preparation, const float* rows, std::size_t count,
                   const Quantization& quantization, float* scratch, std::uint8_t* out) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return quantize_avx2(preparation, rows, count, quantization, scratch, out);
#endif
  quantize(preparation, rows, count, quantization, scratch, out);
}

void quantize_each_row(const RowPreparation& preparation, const float* rows, std::size_t count, float* scratch,
                       float* sizes, float* offsets, std::uint8_t* out) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return quantize_each_avx2(preparation, rows, count, scratch, sizes, offsets, out);
#endif
  quantize_each(preparation, rows, count, scratch, sizes, offsets, out);
}

void quantize_in_terms(const RowPreparation& preparation, const float* rows, std::size_t count, float* scratch,
                       const Terms& terms) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return split_in_terms_avx2(preparation, rows, count, scratch, terms);
#endif
  split_in_terms(preparation, rows, count, scratch, terms);
}

void rescale_rows(const Rescaling& rescaling, const float* rows, std::size_t count, float* out) noexcept {
#if defined(__x86_64__)
  if (has_avx2()) return rescale_avx2(rescaling, rows, count, out);
#endif
  rescale(rescaling, rows, count, out);
}

}  // namespace edgebuild::onnxruntime
