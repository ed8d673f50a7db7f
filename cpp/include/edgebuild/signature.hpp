// What a model takes and gives. Parsed from a bundle's manifest (docs/bundle-format.md); immutable once loaded.

#ifndef EDGEBUILD_SIGNATURE_HPP_
#define EDGEBUILD_SIGNATURE_HPP_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "edgebuild/backend_plugin.h"
#include "edgebuild/export.h"

namespace edgebuild {

/// Element type; the numbers of eb_dtype.
using DType = eb_dtype;

/// The manifest's name of a dtype, e.g. "float32"; "undefined" for none. Static storage.
[[nodiscard]] EDGEBUILD_API const char* dtype_name(DType dtype) noexcept;
/// The dtype of a manifest name; nothing if there is none.
[[nodiscard]] EDGEBUILD_API std::optional<DType> dtype_from_name(std::string_view name) noexcept;
/// Bits of one element: 2, 4, 8 … 128; 0 for strings and undefined.
[[nodiscard]] EDGEBUILD_API unsigned dtype_bits(DType dtype) noexcept;
/// Bytes of a tensor of `count` elements (packed if sub-byte; strings as eb_string); nothing on overflow.
[[nodiscard]] EDGEBUILD_API std::optional<std::uint64_t> dtype_bytes(DType dtype, std::uint64_t count) noexcept;

/// One axis: a number, a symbol shared between tensors, or unknown.
struct Dim {
  enum class Kind { kFixed, kSymbol, kUnknown };
  Kind kind = Kind::kUnknown;
  std::int64_t size = 0;  ///< If fixed.
  std::string symbol;     ///< If a symbol.
};

/// The type of a value: a tensor, a sequence of one type, or an optional of one type.
struct TypeSpec {
  eb_kind kind = EB_KIND_TENSOR;
  DType dtype = EB_DTYPE_UNDEFINED;         ///< Of a tensor.
  std::optional<std::vector<Dim>> shape;    ///< Of a tensor; nothing: any rank.
  std::shared_ptr<const TypeSpec> element;  ///< Of a sequence or an optional.
};

/// One named input or output.
struct ValueSpec {
  std::string name;
  TypeSpec type;
  std::string layout;  ///< E.g. "NCHW"; empty if unknown.
};

/// Range of a symbol: multiples of `step`. `max` absent: unbounded.
struct SymbolRange {
  std::int64_t min = 0;
  std::int64_t best = 1;
  std::optional<std::int64_t> max;
  std::int64_t step = 1;
};

struct Signature {
  std::vector<ValueSpec> inputs;
  std::vector<ValueSpec> outputs;
  std::map<std::string, SymbolRange, std::less<>> symbols;
  std::string output_structure_json;  ///< The manifest's `output_structure`, as compact JSON text.
};

/// A type as users write it, e.g. "float32[batch,3,224,224]".
[[nodiscard]] EDGEBUILD_API std::string to_string(const TypeSpec& type);

}  // namespace edgebuild

#endif  // EDGEBUILD_SIGNATURE_HPP_
