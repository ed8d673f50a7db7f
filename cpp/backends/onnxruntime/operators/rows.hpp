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
/// @param scratch Room for `width()` values.
[[nodiscard]] Extent measure_rows(const RowPreparation& preparation, const float* rows, std::size_t count,
                                  float* scratch) noexcept;

/// Scale and zero point of 8-bit integers, as in ONNX's DynamicQuantizeLinear. Where the range is not finite the scale
/// is NaN, so that products are NaN too, as the engine's own are, and not numbers that mean nothing.
struct Quantization {
  float scale = 1;
  std::uint8_t zero_point = 0;
};
[[nodiscard]] Quantization quantization_of(const Extent& extent) noexcept;

/// Prepared rows as integers of one range, rounded to the nearest, ties to even, and held to 0 to 255.
/// @param out `count * width()` integers.
void quantize_rows(const RowPreparation& preparation, const float* rows, std::size_t count,
                   const Quantization& quantization, float* scratch, std::uint8_t* out) noexcept;

/// The zero point that the engine's products are told for rows with a scale of their own.
constexpr std::uint8_t kMiddle = 128;

/// Prepared rows as integers, each on its own range: a value is `sizes[r] * (out - kMiddle + offsets[r])`.
/// @param sizes `count` of them, above 0; NaN for rows with an infinity.
/// @param offsets `count` of them: kMiddle less the row's zero point.
/// @param out `count * width()` integers.
void quantize_each_row(const RowPreparation& preparation, const float* rows, std::size_t count, float* scratch,
                       float* sizes, float* offsets, std::uint8_t* out) noexcept;

/// Rows as two terms of 8 bits around kMiddle, the second of which holds what rounding to the first leaves: a value is
/// `sizes[0][r] * (out[0] - kMiddle) + sizes[1][r] * (out[1] - kMiddle)`, to 1/64,000 of its row's largest.
/// Each row has its own scale; two integer products take less time than a float one.
/// @param sizes For each term, `count` of them, above 0.
/// @param out For each term, `count * width()` integers from 1 to 255.
struct Terms {
  float* sizes[2] = {};
  std::uint8_t* out[2] = {};
};
void quantize_in_terms(const RowPreparation& preparation, const float* rows, std::size_t count, float* scratch,
                       const Terms& terms) noexcept;

/// How the rows of an integer product are brought back: `(rows[r][j] + offsets[r] * sums[j]) * sizes[r] + bias[j]`, and
/// with `gelu` x of that becomes `x / 2 * (1 + erf(x / sqrt(2)))`, to 2e-6 of x.
struct Rescaling {
  std::size_t width = 0;
  const float* sizes = nullptr;
  const float* offsets = nullptr;       ///< From quantize_each_row; null: all 0.
  const float* sums = nullptr;          ///< Of the weights of each output, `width` values, where there are offsets.
  const float* second = nullptr;        ///< Rows of the second term, added; null: there is one term.
  const float* second_sizes = nullptr;  ///< Of these.
  const float* bias = nullptr;          ///< `width` values; null: all 0.
  bool gelu = false;
};
void rescale_rows(const Rescaling& rescaling, const float* rows, std::size_t count, float* out) noexcept;

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_ROWS_HPP_
