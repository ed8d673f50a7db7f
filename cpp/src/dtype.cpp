#include <limits>

#include "edgebuild/signature.hpp"

namespace edgebuild {
namespace {

struct DTypeRow {
  const char* name;
  DType dtype;
  unsigned bits;
};

/// In the order of their numbers, which begin at 1: the row of dtype d is kRows[d - 1].
constexpr DTypeRow kRows[] = {
    {"float32", EB_FLOAT32, 32},
    {"uint8", EB_UINT8, 8},
    {"int8", EB_INT8, 8},
    {"uint16", EB_UINT16, 16},
    {"int16", EB_INT16, 16},
    {"int32", EB_INT32, 32},
    {"int64", EB_INT64, 64},
    {"string", EB_STRING, 0},
    {"bool", EB_BOOL, 8},
    {"float16", EB_FLOAT16, 16},
    {"float64", EB_FLOAT64, 64},
    {"uint32", EB_UINT32, 32},
    {"uint64", EB_UINT64, 64},
    {"complex64", EB_COMPLEX64, 64},
    {"complex128", EB_COMPLEX128, 128},
    {"bfloat16", EB_BFLOAT16, 16},
    {"float8_e4m3fn", EB_FLOAT8_E4M3FN, 8},
    {"float8_e4m3fnuz", EB_FLOAT8_E4M3FNUZ, 8},
    {"float8_e5m2", EB_FLOAT8_E5M2, 8},
    {"float8_e5m2fnuz", EB_FLOAT8_E5M2FNUZ, 8},
    {"uint4", EB_UINT4, 4},
    {"int4", EB_INT4, 4},
    {"float4_e2m1fn", EB_FLOAT4_E2M1, 4},
    {"float8_e8m0fnu", EB_FLOAT8_E8M0, 8},
    {"uint2", EB_UINT2, 2},
    {"int2", EB_INT2, 2},
};

constexpr bool rows_are_in_order() {
  unsigned number = 1;
  for (const DTypeRow& row : kRows) {
    if (static_cast<unsigned>(row.dtype) != number++) return false;
  }
  return number == static_cast<unsigned>(EB_INT2) + 1;
}
static_assert(rows_are_in_order());

const DTypeRow* find_row(DType dtype) noexcept {
  const auto number = static_cast<unsigned>(dtype);
  return number >= 1 && number <= std::size(kRows) ? &kRows[number - 1] : nullptr;
}

}  // namespace

const char* dtype_name(DType dtype) noexcept {
  const DTypeRow* row = find_row(dtype);
  return row ? row->name : "undefined";
}

std::optional<DType> dtype_from_name(std::string_view name) noexcept {
  for (const DTypeRow& row : kRows) {
    if (name == row.name) return row.dtype;
  }
  return std::nullopt;
}

unsigned dtype_bits(DType dtype) noexcept {
  const DTypeRow* row = find_row(dtype);
  return row ? row->bits : 0;
}

std::optional<std::uint64_t> dtype_bytes(DType dtype, std::uint64_t count) noexcept {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t bits = dtype == EB_STRING ? 8 * sizeof(eb_string) : dtype_bits(dtype);
  if (bits == 0) return count == 0 ? std::optional<std::uint64_t>(0) : std::nullopt;
  if (bits >= 8) {
    const std::uint64_t bytes = bits / 8;
    if (count > kMax / bytes) return std::nullopt;
    return count * bytes;
  }
  const std::uint64_t per_byte = 8 / bits;
  return count / per_byte + (count % per_byte != 0 ? 1 : 0);
}

std::string to_string(const TypeSpec& type) {
  if (type.kind != EB_KIND_TENSOR) {
    const char* outer = type.kind == EB_KIND_SEQUENCE   ? "sequence"
                        : type.kind == EB_KIND_OPTIONAL ? "optional"
                                                        : "none";
    return std::string(outer) + "(" + (type.element ? to_string(*type.element) : "") + ")";
  }
  std::string text = dtype_name(type.dtype);
  if (!type.shape) return text + "[...]";
  text += '[';
  for (const Dim& dim : *type.shape) {
    if (text.back() != '[') text += ',';
    switch (dim.kind) {
      case Dim::Kind::kFixed:
        text += std::to_string(dim.size);
        break;
      case Dim::Kind::kSymbol:
        text += dim.symbol;
        break;
      case Dim::Kind::kUnknown:
        text += '?';
        break;
    }
  }
  return text + "]";
}

}  // namespace edgebuild
