#include "runner/check.hpp"

#include <algorithm>

namespace edgebuild::runner {
namespace {

/// Alignment that a caller's memory must have: that of an element, 8 at most (complex128 is two numbers).
std::uint64_t alignment_of(DType dtype) noexcept {
  if (dtype == EB_STRING) return alignof(eb_string);
  if (dtype == EB_COMPLEX64) return 4;
  return std::clamp<std::uint64_t>(dtype_bits(dtype) / 8, 1, 8);
}

bool is_aligned(const void* data, DType dtype) noexcept {
  return reinterpret_cast<std::uintptr_t>(data) % alignment_of(dtype) == 0;
}

std::string kind_text(const eb_value& value) {
  switch (value.kind) {
    case EB_KIND_NONE:
      return "nothing";
    case EB_KIND_TENSOR: {
      const std::uint32_t rank = std::min(value.rank, EB_MAX_RANK);
      return dtype_name(static_cast<DType>(value.dtype)) + shape_text({value.shape, rank});
    }
    case EB_KIND_SEQUENCE:
      return "a sequence of " + std::to_string(value.item_count);
    default:
      return "a value of kind " + std::to_string(value.kind);
  }
}

}  // namespace

std::optional<std::uint64_t> tensor_byte_size(const eb_value& value) noexcept {
  if (value.rank > EB_MAX_RANK) return std::nullopt;
  std::uint64_t count = 1;
  bool empty = false;
  for (std::uint32_t i = 0; i < value.rank; ++i) {
    const std::int64_t size = value.shape[i];
    if (size < 0) return std::nullopt;
    empty = empty || size == 0;
    if (empty) continue;
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(size), &count)) return std::nullopt;
  }
  return dtype_bytes(static_cast<DType>(value.dtype), empty ? 0 : count);
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
  return text + "]";
}

SignatureChecker::SignatureChecker(const Signature& signature) {
  for (const ValueSpec& spec : signature.inputs) {
    const int type = add_type(spec.type, signature);
    inputs_.push_back({spec.name, to_string(spec.type), type});
  }
  for (const ValueSpec& spec : signature.outputs) {
    const int type = add_type(spec.type, signature);
    outputs_.push_back({spec.name, to_string(spec.type), type});
  }
}

int SignatureChecker::symbol_index(const std::string& name, const Signature& signature) {
  const auto known =
      std::find_if(symbols_.begin(), symbols_.end(), [&](const Symbol& symbol) { return symbol.name == name; });
  if (known != symbols_.end()) return static_cast<int>(known - symbols_.begin());
  const auto range = signature.symbols.find(name);
  symbols_.push_back({name, range != signature.symbols.end() ? range->second : SymbolRange{}});
  return static_cast<int>(symbols_.size()) - 1;
}

int SignatureChecker::add_type(const TypeSpec& spec, const Signature& signature) {
  Type type;
  type.kind = spec.kind;
  type.dtype = spec.dtype;
  type.any_rank = !spec.shape.has_value();
  if (spec.shape) {
    for (const Dim& dim : *spec.shape) {
      Axis axis;
      if (dim.kind == Dim::Kind::kFixed) axis.fixed = dim.size;
      if (dim.kind == Dim::Kind::kSymbol) axis.symbol = symbol_index(dim.symbol, signature);
      type.shape.push_back(axis);
    }
  }
  if (spec.element) type.element = add_type(*spec.element, signature);
  types_.push_back(std::move(type));
  return static_cast<int>(types_.size()) - 1;
}

bool SignatureChecker::accepts_axis(const Axis& axis, std::size_t index, std::int64_t size, SymbolSizes& sizes,
                                    std::string* reason) const {
  if (axis.fixed >= 0 && axis.fixed != size) {
    *reason = "axis " + std::to_string(index) + " must be " + std::to_string(axis.fixed);
    return false;
  }
  if (axis.symbol < 0) return true;
  const auto position = static_cast<std::size_t>(axis.symbol);
  const Symbol& symbol = symbols_[position];
  if (sizes[position] >= 0) {
    if (sizes[position] == size) return true;
    *reason = "axis " + std::to_string(index) + " (" + symbol.name + ") must be " + std::to_string(sizes[position]) +
              " as elsewhere in the inputs";
    return false;
  }
  if (size < symbol.range.min || (symbol.range.max && size > *symbol.range.max)) {
    *reason = "axis " + std::to_string(index) + " (" + symbol.name + ") must be " + std::to_string(symbol.range.min) +
              (symbol.range.max ? " to " + std::to_string(*symbol.range.max) : " or more");
    return false;
  }
  if (size % symbol.range.step != 0) {
    *reason = "axis " + std::to_string(index) + " (" + symbol.name + ") must be a multiple of " +
              std::to_string(symbol.range.step);
    return false;
  }
  sizes[position] = size;
  return true;
}

bool SignatureChecker::accepts_tensor(const Type& type, const eb_value& value, SymbolSizes& sizes,
                                      std::string* reason) const {
  if (type.dtype != EB_DTYPE_UNDEFINED && value.dtype != static_cast<std::uint32_t>(type.dtype)) {
    *reason = std::string("the dtype must be ") + dtype_name(type.dtype);
    return false;
  }
  if (value.rank > EB_MAX_RANK || (!type.any_rank && value.rank != type.shape.size())) {
    *reason = "the rank must be " + (type.any_rank ? "at most 16" : std::to_string(type.shape.size()));
    return false;
  }
  if (!type.any_rank) {
    for (std::size_t i = 0; i < value.rank; ++i) {
      if (!accepts_axis(type.shape[i], i, value.shape[i], sizes, reason)) return false;
    }
  }
  const std::optional<std::uint64_t> bytes = tensor_byte_size(value);
  if (!bytes || *bytes != value.byte_size) {
    *reason = bytes
                  ? "the data must have " + std::to_string(*bytes) + " bytes, it has " + std::to_string(value.byte_size)
                  : std::string("no tensor can have this shape");
    return false;
  }
  if (value.byte_size != 0 && (value.data == nullptr || !is_aligned(value.data, static_cast<DType>(value.dtype)))) {
    *reason = value.data == nullptr ? "the data pointer is null" : "the data is not aligned to its element size";
    return false;
  }
  if (value.dtype != EB_STRING) return true;
  const auto* const strings = static_cast<const eb_string*>(value.data);
  for (std::uint64_t i = 0; i < value.byte_size / sizeof(eb_string); ++i) {
    if (strings[i].data == nullptr && strings[i].size != 0) {
      *reason = "string " + std::to_string(i) + " is a null pointer";
      return false;
    }
  }
  return true;
}

bool SignatureChecker::accepts(int index, const eb_value& value, SymbolSizes& sizes, std::string* reason) const {
  const Type& type = types_[static_cast<std::size_t>(index)];
  if (type.kind == EB_KIND_OPTIONAL) return value.kind == EB_KIND_NONE || accepts(type.element, value, sizes, reason);
  if (value.kind != static_cast<std::uint32_t>(type.kind)) {
    *reason = type.kind == EB_KIND_SEQUENCE ? "a sequence is expected" : "a tensor is expected";
    return false;
  }
  if (type.kind == EB_KIND_TENSOR) return accepts_tensor(type, value, sizes, reason);
  if (value.items == nullptr && value.item_count != 0) {
    *reason = "the items' pointer is null";
    return false;
  }
  for (std::uint64_t i = 0; i < value.item_count; ++i) {
    if (accepts(type.element, value.items[i], sizes, reason)) continue;
    *reason = "item " + std::to_string(i) + ", which is " + kind_text(value.items[i]) + ": " + *reason;
    return false;
  }
  return true;
}

Status SignatureChecker::check_inputs(std::span<const eb_value> inputs, SymbolSizes& sizes) const {
  if (inputs.size() != inputs_.size()) {
    return Status(Code::kInvalidArgument, "the model takes " + std::to_string(inputs_.size()) + " inputs, got " +
                                              std::to_string(inputs.size()));
  }
  std::fill(sizes.begin(), sizes.end(), -1);
  std::string reason;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (accepts(inputs_[i].type, inputs[i], sizes, &reason)) continue;
    return Status(Code::kInvalidArgument, "input '" + inputs_[i].name + "': expected " + inputs_[i].text + ", got " +
                                              kind_text(inputs[i]) + ": " + reason);
  }
  return {};
}

Status SignatureChecker::check_outputs(std::span<const eb_value> outputs) const {
  if (outputs.size() != outputs_.size()) {
    return Status(Code::kInvalidArgument, "the model gives " + std::to_string(outputs_.size()) +
                                              " outputs, got room for " + std::to_string(outputs.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const eb_value& value = outputs[i];
    if (value.kind == EB_KIND_NONE) continue;
    const Type& type = types_[static_cast<std::size_t>(outputs_[i].type)];
    const char* reason = nullptr;
    if (value.kind != EB_KIND_TENSOR || type.kind == EB_KIND_SEQUENCE || type.dtype == EB_STRING) {
      reason = "only a tensor of numbers can be bound to a buffer; leave it empty and the backend allocates it";
    } else if (value.data == nullptr && value.byte_capacity != 0) {
      reason = "the bound buffer is a null pointer";
    } else if (!is_aligned(value.data, type.dtype)) {
      reason = "the bound buffer is not aligned to the element size";
    }
    if (reason != nullptr) {
      return Status(Code::kInvalidArgument, "output '" + outputs_[i].name + "' (" + outputs_[i].text + "): " + reason);
    }
  }
  return {};
}

}  // namespace edgebuild::runner
