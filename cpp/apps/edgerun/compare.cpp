#include "compare.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::DType;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// How a small float type lays out its bits and what it has instead of numbers.
struct FloatLayout {
  unsigned exponent;
  unsigned mantissa;
  int bias;
  enum { kIeee, kNanAllOnes, kNanMinusZero, kFinite } special;
};

double decode_layout(const FloatLayout& layout, std::uint64_t bits) {
  const unsigned width = layout.exponent + layout.mantissa;
  const bool negative = (bits >> width & 1U) != 0;
  const std::uint64_t magnitude = bits & ((std::uint64_t{1} << width) - 1);
  const std::uint64_t exponent = magnitude >> layout.mantissa;
  const std::uint64_t mantissa = magnitude & ((std::uint64_t{1} << layout.mantissa) - 1);
  const std::uint64_t top = (std::uint64_t{1} << layout.exponent) - 1;
  if (layout.special == FloatLayout::kIeee && exponent == top) {
    return mantissa != 0 ? kNan : negative ? -kInfinity : kInfinity;
  }
  if (layout.special == FloatLayout::kNanAllOnes && magnitude == (std::uint64_t{1} << width) - 1) return kNan;
  if (layout.special == FloatLayout::kNanMinusZero && negative && magnitude == 0) return kNan;
  const std::uint64_t implied = exponent == 0 ? 0 : std::uint64_t{1} << layout.mantissa;
  const int scale = (exponent == 0 ? 1 : static_cast<int>(exponent)) - layout.bias - static_cast<int>(layout.mantissa);
  const double value = std::ldexp(static_cast<double>(implied | mantissa), scale);
  return negative ? -value : value;
}

bool is_float(DType dtype) {
  switch (dtype) {
    case EB_FLOAT16:
    case EB_BFLOAT16:
    case EB_FLOAT32:
    case EB_FLOAT64:
    case EB_FLOAT8_E4M3FN:
    case EB_FLOAT8_E4M3FNUZ:
    case EB_FLOAT8_E5M2:
    case EB_FLOAT8_E5M2FNUZ:
    case EB_FLOAT8_E8M0:
    case EB_FLOAT4_E2M1:
      return true;
    default:
      return false;
  }
}

bool is_signed(DType dtype) {
  return dtype == EB_INT2 || dtype == EB_INT4 || dtype == EB_INT8 || dtype == EB_INT16 || dtype == EB_INT32 ||
         dtype == EB_INT64;
}

// Element `i` of a packed array, in the lowest of 64 bits; for elements of at most 64 bits.
std::uint64_t element_bits(const void* data, unsigned bits, std::uint64_t i) {
  const auto* bytes = static_cast<const unsigned char*>(data);
  if (bits < 8) {
    const std::uint64_t per_byte = 8 / bits;
    return static_cast<std::uint64_t>(bytes[i / per_byte]) >> (i % per_byte * bits) & ((1U << bits) - 1U);
  }
  std::uint64_t value = 0;
  std::memcpy(&value, bytes + i * (bits / 8), bits / 8);  // little endian
  return value;
}

std::int64_t sign_extend(std::uint64_t value, unsigned bits) {
  return static_cast<std::int64_t>(value << (64 - bits)) >> (64 - bits);
}

struct Difference {
  double error = 0.0;
  double magnitude = 0.0;  // of the golden
};

Difference float_difference(double got, double golden) {
  if (std::isnan(got) && std::isnan(golden)) return {};
  if (got == golden) return {0.0, std::isinf(golden) ? 0.0 : std::fabs(golden)};
  if (!std::isfinite(got) || !std::isfinite(golden)) return {kInfinity, 0.0};
  return {std::fabs(got - golden), std::fabs(golden)};
}

Difference complex_difference(const double got[2], const double golden[2]) {
  const Difference real = float_difference(got[0], golden[0]);
  const Difference imaginary = float_difference(got[1], golden[1]);
  return {std::hypot(real.error, imaginary.error), std::hypot(real.magnitude, imaginary.magnitude)};
}

class TensorComparer {
 public:
  TensorComparer(const eb_value& got, const eb_value& golden)
      : got_(got), golden_(golden), dtype_(static_cast<DType>(golden.dtype)), bits_(edgebuild::dtype_bits(dtype_)) {}

  [[nodiscard]] Difference difference(std::uint64_t i) const {
    if (dtype_ == EB_STRING) return string(got_, i) == string(golden_, i) ? Difference{} : Difference{kInfinity, 0.0};
    if (dtype_ == EB_COMPLEX64 || dtype_ == EB_COMPLEX128) {
      double got[2];
      double golden[2];
      complex(got_, i, got);
      complex(golden_, i, golden);
      return complex_difference(got, golden);
    }
    const std::uint64_t got = element_bits(got_.data, bits_, i);
    const std::uint64_t golden = element_bits(golden_.data, bits_, i);
    if (is_float(dtype_)) return float_difference(decode_float(dtype_, got), decode_float(dtype_, golden));
    if (is_signed(dtype_)) {
      const std::int64_t a = sign_extend(got, bits_);
      const std::int64_t b = sign_extend(golden, bits_);
      const std::uint64_t distance = a > b ? static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b)
                                           : static_cast<std::uint64_t>(b) - static_cast<std::uint64_t>(a);
      return {static_cast<double>(distance), std::fabs(static_cast<double>(b))};
    }
    return {static_cast<double>(got > golden ? got - golden : golden - got), static_cast<double>(golden)};
  }

  [[nodiscard]] std::string text(const eb_value& value, std::uint64_t i) const {
    if (dtype_ == EB_STRING) return std::string(string(value, i));
    if (dtype_ == EB_COMPLEX64 || dtype_ == EB_COMPLEX128) {
      double parts[2];
      complex(value, i, parts);
      return format("%.9g%+.9gj", parts[0], parts[1]);
    }
    const std::uint64_t bits = element_bits(value.data, bits_, i);
    if (is_float(dtype_)) return format(dtype_ == EB_FLOAT64 ? "%.17g" : "%.9g", decode_float(dtype_, bits));
    return is_signed(dtype_) ? std::to_string(sign_extend(bits, bits_)) : std::to_string(bits);
  }

 private:
  static std::string_view string(const eb_value& value, std::uint64_t i) {
    const eb_string& element = static_cast<const eb_string*>(value.data)[i];
    return {element.data, static_cast<std::size_t>(element.size)};
  }

  void complex(const eb_value& value, std::uint64_t i, double parts[2]) const {
    const DType part = dtype_ == EB_COMPLEX64 ? EB_FLOAT32 : EB_FLOAT64;
    for (std::uint64_t k = 0; k < 2; ++k) parts[k] = decode_float(part, element_bits(value.data, bits_ / 2, 2 * i + k));
  }

  const eb_value& got_;
  const eb_value& golden_;
  DType dtype_;
  unsigned bits_;
};

std::string shape_text(const eb_value& tensor) {
  std::string text = std::string(edgebuild::dtype_name(static_cast<DType>(tensor.dtype))) + "[";
  for (std::uint32_t i = 0; i < tensor.rank; ++i) text.append(i > 0 ? "," : "").append(std::to_string(tensor.shape[i]));
  return text + "]";
}

const char* kind_text(std::uint32_t kind) {
  return kind == EB_KIND_TENSOR ? "a tensor" : kind == EB_KIND_SEQUENCE ? "a sequence" : "nothing";
}

// How far outside: above 1 is outside. Errors without any tolerance are ordered by size behind all others.
double severity(double error, double allowed) {
  if (error == 0.0) return 0.0;
  return allowed > 0.0 ? error / allowed : std::numeric_limits<double>::max();
}

void compare_tensors(const eb_value& got, const eb_value& golden, double atol, double rtol, Comparison& result) {
  const std::span<const std::int64_t> shape(golden.shape, golden.rank);
  bool same = got.dtype == golden.dtype && got.rank == golden.rank;
  for (std::uint32_t i = 0; same && i < golden.rank; ++i) same = got.shape[i] == golden.shape[i];
  if (!same) {
    result.structure_error = "got " + shape_text(got) + ", the golden is " + shape_text(golden);
    return;
  }
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::uint64_t>(size);
  const TensorComparer comparer(got, golden);
  double worst = severity(result.worst.error, result.worst.allowed);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Difference difference = comparer.difference(i);
    const double allowed = atol + rtol * difference.magnitude;
    if (!(difference.error <= allowed)) ++result.outside;
    result.max_error = std::fmax(result.max_error, difference.error);
    const double how_bad = severity(difference.error, allowed);
    const bool worse = how_bad > worst || (how_bad == worst && difference.error > result.worst.error);
    if (!worse && (i > 0 || result.elements > 0)) continue;
    worst = how_bad;
    std::vector<std::int64_t> index(shape.size());
    std::uint64_t rest = i;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
      index[axis] = static_cast<std::int64_t>(rest % static_cast<std::uint64_t>(shape[axis]));
      rest /= static_cast<std::uint64_t>(shape[axis]);
    }
    result.worst = {std::move(index), difference.error, allowed, comparer.text(got, i), comparer.text(golden, i)};
  }
  result.elements += count;
}

void compare_into(const eb_value& got, const eb_value& golden, double atol, double rtol, Comparison& result) {
  if (got.kind != golden.kind) {
    result.structure_error = std::string("got ") + kind_text(got.kind) + ", the golden is " + kind_text(golden.kind);
  } else if (golden.kind == EB_KIND_TENSOR) {
    compare_tensors(got, golden, atol, rtol, result);
  } else if (golden.kind == EB_KIND_SEQUENCE) {
    if (got.item_count != golden.item_count) {
      result.structure_error = "got a sequence of " + std::to_string(got.item_count) + ", the golden has " +
                               std::to_string(golden.item_count);
      return;
    }
    for (std::uint64_t i = 0; i < golden.item_count && result.structure_error.empty(); ++i) {
      compare_into(got.items[i], golden.items[i], atol, rtol, result);
    }
  }
}

}  // namespace

double decode_float(DType dtype, std::uint64_t bits) {
  switch (dtype) {
    case EB_FLOAT64:
      return std::bit_cast<double>(bits);
    case EB_FLOAT32:
      return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
    case EB_BFLOAT16:
      return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits << 16U)));
    case EB_FLOAT16:
      return decode_layout({5, 10, 15, FloatLayout::kIeee}, bits);
    case EB_FLOAT8_E4M3FN:
      return decode_layout({4, 3, 7, FloatLayout::kNanAllOnes}, bits);
    case EB_FLOAT8_E4M3FNUZ:
      return decode_layout({4, 3, 8, FloatLayout::kNanMinusZero}, bits);
    case EB_FLOAT8_E5M2:
      return decode_layout({5, 2, 15, FloatLayout::kIeee}, bits);
    case EB_FLOAT8_E5M2FNUZ:
      return decode_layout({5, 2, 16, FloatLayout::kNanMinusZero}, bits);
    case EB_FLOAT4_E2M1:
      return decode_layout({2, 1, 1, FloatLayout::kFinite}, bits);
    case EB_FLOAT8_E8M0:  // powers of two alone, without a sign
      return bits == 0xFF ? kNan : std::ldexp(1.0, static_cast<int>(bits) - 127);
    default:
      return kNan;
  }
}

Comparison compare(const eb_value& got, const eb_value& golden, double atol, double rtol) {
  Comparison result;
  compare_into(got, golden, atol, rtol, result);
  return result;
}

}  // namespace edgerun
