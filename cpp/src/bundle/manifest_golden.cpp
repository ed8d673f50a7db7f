#include <algorithm>
#include <limits>

#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {

using json::Kind;
using json::Value;

namespace {

/// The number of elements of `bits` each; nothing if the sizes that are not 0 multiply to 2^63 bits or more.
std::optional<std::uint64_t> element_count(const std::vector<std::int64_t>& shape, std::uint64_t bits) {
  constexpr auto kMaxBits = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t product = bits;
  bool empty = false;
  for (const std::int64_t size : shape) {
    const auto factor = static_cast<std::uint64_t>(size);
    if (factor == 0) {
      empty = true;
    } else if (product > kMaxBits / factor) {
      return std::nullopt;
    } else {
      product *= factor;
    }
  }
  return empty ? 0 : product / bits;
}

void read_tensor(ManifestReader& reader, const Value& value, const Manifest& manifest, GoldenValue& out) {
  out.kind = EB_KIND_TENSOR;
  if (const auto dtype = reader.required(value, "dtype")) out.dtype = reader.dtype(*dtype);
  if (const auto shape = reader.required(value, "shape"); shape && reader.expect(*shape, Kind::kArray)) {
    reader.at_most(*shape, EB_MAX_RANK, "dimensions");
    for (const Value size : *shape) {
      if (!reader.ok()) return;
      out.shape.push_back(reader.integer(size, 0));
    }
  }
  const auto file = reader.required(value, "file");
  if (file) out.file = reader.reference(*file, manifest);
  if (!reader.ok()) return;

  const std::uint64_t actual = manifest.files.find(out.file)->second.size;
  // Of a string, the length that stands before it; the rest is checked when the file is read.
  const bool strings = out.dtype == EB_STRING;
  const std::optional<std::uint64_t> count = element_count(out.shape, strings ? 32 : dtype_bits(out.dtype));
  if (!count) {
    reader.fail(value, "shape and dtype make 2^63 bits or more");
    return;
  }
  const std::uint64_t bytes = strings ? *count * 4 : dtype_bytes(out.dtype, *count).value_or(0);
  if (strings ? actual < bytes : actual != bytes) {
    reader.fail(value, "shape and dtype need " + std::string(strings ? "at least " : "") + std::to_string(bytes) +
                           " bytes, the file " + json::in_quotes(out.file) + " has " + std::to_string(actual));
  }
}

/// Recursion ends with the JSON's depth limit.
GoldenValue read_value(ManifestReader& reader, const Value& value, const Manifest& manifest) {
  GoldenValue out;
  const auto kind = reader.required(value, "kind");
  if (!kind) return out;
  switch (reader.one_of(*kind, {"tensor", "sequence", "none"})) {
    case 0:
      if (reader.ok()) read_tensor(reader, value, manifest, out);
      break;
    case 1:
      out.kind = EB_KIND_SEQUENCE;
      if (const auto items = reader.required(value, "items"); items && reader.expect(*items, Kind::kArray)) {
        for (const Value item : *items) {
          if (!reader.ok()) break;
          out.items.push_back(read_value(reader, item, manifest));
        }
      }
      break;
    default:
      break;
  }
  return out;
}

/// The entries of `value` in the order of `specs`; exactly one for each.
std::vector<GoldenValue> read_entries(ManifestReader& reader, const Value& value, const std::vector<ValueSpec>& specs,
                                      const Manifest& manifest) {
  std::vector<GoldenValue> out;
  if (!reader.expect(value, Kind::kObject)) return out;
  std::map<std::string_view, Value> entries;
  for (const Value entry : value) entries.emplace(entry.key(), entry);
  for (const ValueSpec& spec : specs) {
    if (!reader.ok()) return out;
    const auto entry = entries.find(spec.name);
    if (entry == entries.end()) {
      reader.fail(value, "no entry for " + json::in_quotes(spec.name));
      return out;
    }
    out.push_back(read_value(reader, entry->second, manifest));
  }
  if (entries.size() != specs.size()) reader.fail(value, "an entry for a name that the signature does not have");
  return out;
}

}  // namespace

void read_goldens(ManifestReader& reader, const Value& goldens, Manifest& manifest) {
  if (!reader.expect(goldens, Kind::kArray)) return;
  reader.at_most(goldens, kMaxGoldens, "goldens");
  for (const Value value : goldens) {
    if (!reader.ok()) return;
    Golden golden;
    if (const auto inputs = reader.required(value, "inputs")) {
      golden.inputs = read_entries(reader, *inputs, manifest.signature.inputs, manifest);
    }
    if (const auto outputs = reader.required(value, "outputs")) {
      golden.outputs = read_entries(reader, *outputs, manifest.signature.outputs, manifest);
    }
    manifest.goldens.push_back(std::move(golden));
  }
}

}  // namespace edgebuild::bundle
