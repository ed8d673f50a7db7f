// What edgebuild's own operators compute, without the engine: rows of an activation made ready for an integer product,
// and the product's rows brought back to scale. One pass over the activation instead of six (Gather, Concat, Mul, Abs,
// ReduceMax, Div).

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_ROWS_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_ROWS_HPP_

#include <cstddef>
#include <cstdint>

namespace edgebuild::onnxruntime {

/// How each row of `depth` values becomes one of `width() = depth + copies`:
/// `row[j] * factors[j]`, and behind them `(row[columns[i]] + shifts[i]) * factors[depth + i]`.
struct RowPreparation {
  std::size_t depth = 0;
  std::size_t copies = 0;
  const float* factors = nullptr;         ///< `width()` of them; null: all 1.
  const std::int64_t* columns = nullptr;  ///< `copies` of them, each from 0 to `depth - 1`.
  const float* shifts = nullptr;          ///< `copies` of them; null: all 0.
  bool scale_rows = false;                ///< Whether rows are divided by their largest magnitudes.

  [[nodiscard]] std::size_t width() const noexcept { return depth + copies; }
};

/// The least and the greatest of a set of values and 0.
struct Extent {
  float low = 0;
  float high = 0;

  void include(const Extent& other) noexcept {
    low = other.low < low ? other.low : low;
    high = other.high > high ? other.high : high;
  }
};

/// The extent of prepared rows.
/// @param rows `count` of them, one behind the other.
/// @param sizes Set to what each row is divided by, above 0; null unless rows are scaled.
/// @param scratch Room for `width()` values.
[[nodiscard]] Extent measure_rows(const RowPreparation& preparation, const float* rows, std::size_t count, float* sizes,
                                  float* scratch) noexcept;

/// Scale and zero point of 8-bit integers, as in ONNX's DynamicQuantizeLinear.
struct Quantization {
  float scale = 1;
  std::uint8_t zero_point = 0;
};
[[nodiscard]] Quantization quantization_of(const Extent& extent) noexcept;

/// Prepared rows as integers, rounded to the nearest, ties to even, and held to 0 to 255.
/// @param sizes From measure_rows; null unless rows are scaled.
/// @param out `count * width()` integers.
void quantize_rows(const RowPreparation& preparation, const float* rows, std::size_t count, const float* sizes,
                   const Quantization& quantization, float* scratch, std::uint8_t* out) noexcept;

/// `rows[r][j] * sizes[r] + bias[j]`.
/// @param bias `width` values; null: all 0.
void rescale_rows(const float* rows, std::size_t count, std::size_t width, const float* sizes, const float* bias,
                  float* out) noexcept;

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_ROWS_HPP_
