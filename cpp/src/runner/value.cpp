#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

#include "edgebuild/runner.hpp"
#include "runner/check.hpp"

namespace edgebuild {
namespace {

/// Arrays of Value are handed to backends as arrays of eb_value.
static_assert(sizeof(Value) == sizeof(eb_value) && std::is_standard_layout_v<Value>);

/// Alignment of owned tensors; a cache line, and enough for every vector unit.
constexpr std::align_val_t kAlignment{64};

eb_value empty_value() noexcept {
  eb_value value{};
  value.struct_size = sizeof(eb_value);
  value.kind = EB_KIND_NONE;
  value.device_type = EB_DEVICE_CPU;
  return value;
}

struct OwnedStrings {
  std::vector<eb_string> views;
  std::vector<std::string> text;
};

void release_bytes(eb_value* value) { ::operator delete(value->owner, kAlignment); }
void release_strings(eb_value* value) { delete static_cast<OwnedStrings*>(value->owner); }
void release_items(eb_value* value) { delete static_cast<std::vector<Value>*>(value->owner); }

/// A tensor's description without memory. `bytes` gets what it needs.
Result<eb_value> describe(DType dtype, std::span<const std::int64_t> shape, std::uint64_t* bytes) {
  eb_value value = empty_value();
  value.kind = EB_KIND_TENSOR;
  value.dtype = static_cast<std::uint32_t>(dtype);
  if (shape.size() > EB_MAX_RANK) {
    return Status(Code::kInvalidArgument, "rank " + std::to_string(shape.size()) +
                                              " is above the most that edgebuild handles, " +
                                              std::to_string(EB_MAX_RANK));
  }
  value.rank = static_cast<std::uint32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), value.shape);
  const std::optional<std::uint64_t> needed = runner::tensor_byte_size(value);
  if (!needed) {
    return Status(Code::kInvalidArgument, std::string("a tensor of ") + dtype_name(dtype) + " with shape " +
                                              runner::shape_text(shape) + " is not possible");
  }
  value.byte_size = *needed;
  *bytes = *needed;
  return value;
}

}  // namespace

Value::Value() noexcept : raw_(empty_value()) {}

Value::Value(Value&& other) noexcept : raw_(std::exchange(other.raw_, empty_value())) {}

Value& Value::operator=(Value&& other) noexcept {
  if (this != &other) {
    if (raw_.release != nullptr) raw_.release(&raw_);
    raw_ = std::exchange(other.raw_, empty_value());
  }
  return *this;
}

Value::~Value() {
  if (raw_.release != nullptr) raw_.release(&raw_);
}

Result<Value> Value::view(DType dtype, std::span<const std::int64_t> shape, const void* data, std::size_t bytes) {
  std::uint64_t needed = 0;
  Result<eb_value> described = describe(dtype, shape, &needed);
  if (!described.ok()) return described.status();
  if (needed != bytes) {
    return Status(Code::kInvalidArgument, std::string("a tensor of ") + dtype_name(dtype) + " with shape " +
                                              runner::shape_text(shape) + " has " + std::to_string(needed) +
                                              " bytes, got " + std::to_string(bytes));
  }
  Value value;
  value.raw_ = described.value();
  value.raw_.data = const_cast<void*>(data);  // Inputs are only read.
  return value;
}

Value Value::bound(void* data, std::size_t capacity) noexcept {
  Value value;
  value.raw_.kind = EB_KIND_TENSOR;
  value.raw_.data = data;
  value.raw_.byte_capacity = capacity;
  return value;
}

Result<Value> Value::allocate(DType dtype, std::span<const std::int64_t> shape) {
  if (dtype == EB_STRING) return Status(Code::kInvalidArgument, "Value::allocate makes no strings; use Value::strings");
  std::uint64_t needed = 0;
  Result<eb_value> described = describe(dtype, shape, &needed);
  if (!described.ok()) return described.status();
  Value value;
  value.raw_ = described.value();
  if (needed == 0) return value;
  void* const memory =
      needed <= SIZE_MAX ? ::operator new(static_cast<std::size_t>(needed), kAlignment, std::nothrow) : nullptr;
  if (memory == nullptr) {
    return Status(Code::kResourceExhausted, "no memory for a tensor of " + std::to_string(needed) + " bytes");
  }
  std::memset(memory, 0, static_cast<std::size_t>(needed));
  value.raw_.data = memory;
  value.raw_.byte_capacity = needed;
  value.raw_.owner = memory;
  value.raw_.release = release_bytes;
  return value;
}

Result<Value> Value::strings(std::span<const std::int64_t> shape, std::span<const std::string> elements) {
  std::uint64_t needed = 0;
  Result<eb_value> described = describe(EB_STRING, shape, &needed);
  if (!described.ok()) return described.status();
  if (needed != std::uint64_t{elements.size()} * sizeof(eb_string)) {
    return Status(Code::kInvalidArgument, "a tensor of strings with shape " + runner::shape_text(shape) + " has " +
                                              std::to_string(needed / sizeof(eb_string)) + " elements, got " +
                                              std::to_string(elements.size()));
  }
  auto owned = std::make_unique<OwnedStrings>();
  owned->text.assign(elements.begin(), elements.end());
  for (const std::string& text : owned->text) owned->views.push_back({text.data(), text.size()});
  Value value;
  value.raw_ = described.value();
  value.raw_.data = owned->views.empty() ? nullptr : owned->views.data();
  value.raw_.owner = owned.release();
  value.raw_.release = release_strings;
  return value;
}

Value Value::sequence(std::vector<Value> items, DType element_dtype) {
  auto owned = std::make_unique<std::vector<Value>>(std::move(items));
  Value value;
  value.raw_.kind = EB_KIND_SEQUENCE;
  value.raw_.dtype = static_cast<std::uint32_t>(element_dtype);
  value.raw_.items = owned->empty() ? nullptr : &owned->front().raw_;
  value.raw_.item_count = owned->size();
  value.raw_.owner = owned.release();
  value.raw_.release = release_items;
  return value;
}

Value Value::adopt(const eb_value& raw) noexcept {
  Value value;
  value.raw_ = raw;
  return value;
}

std::uint64_t Value::element_count() const noexcept {
  if (raw_.kind != EB_KIND_TENSOR) return 0;
  std::uint64_t count = 1;
  for (const std::int64_t size : shape()) count *= static_cast<std::uint64_t>(size);  // Checked when it was made.
  return count;
}

}  // namespace edgebuild
