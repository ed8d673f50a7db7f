#include "golden.hpp"

#include <span>

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::Value;
using edgebuild::bundle::Bundle;
using edgebuild::bundle::GoldenValue;

Result<Value> make(const Bundle& bundle, const GoldenValue& golden, Storage& storage) {
  if (golden.kind == EB_KIND_NONE) return Value();
  if (golden.kind == EB_KIND_SEQUENCE) {
    std::vector<Value> items;
    for (const GoldenValue& item : golden.items) {
      Result<Value> value = make(bundle, item, storage);
      if (!value.ok()) return value;
      items.push_back(std::move(value).value());
    }
    const edgebuild::DType dtype = golden.items.empty() ? EB_DTYPE_UNDEFINED : golden.items.front().dtype;
    return Value::sequence(std::move(items), dtype);
  }
  auto file = bundle.map(golden.file);
  if (!file.ok()) return file.status();
  storage.push_back(file.value());
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(file.value()->data()), file.value()->size());
  Result<Value> value = value_from_raw(bytes, golden.dtype, golden.shape, golden.file);
  if (!value.ok()) return Status(Code::kCorrupt, value.status().message());
  return value;
}

}  // namespace

Result<LoadedInputs> load_golden(const Bundle& bundle, const std::vector<GoldenValue>& goldens) {
  LoadedInputs loaded;
  for (const GoldenValue& golden : goldens) {
    Result<Value> value = make(bundle, golden, loaded.storage);
    if (!value.ok()) return value.status();
    loaded.values.push_back(std::move(value).value());
  }
  return loaded;
}

}  // namespace edgerun
