#include <algorithm>

#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {

using json::Kind;
using json::Value;

namespace {

Dim read_dim(ManifestReader& reader, const Value& value) {
  Dim dim;
  switch (value.kind()) {
    case Kind::kNull:
      break;
    case Kind::kString:
      dim.kind = Dim::Kind::kSymbol;
      dim.symbol = reader.name(value);
      break;
    case Kind::kInteger:
      dim.kind = Dim::Kind::kFixed;
      dim.size = reader.integer(value, 0);
      break;
    default:
      reader.fail(value, std::string("expected an integer, a symbol or null, got ") + json::kind_name(value.kind()));
  }
  return dim;
}

/// Recursion ends with the JSON's depth limit.
TypeSpec read_type(ManifestReader& reader, const Value& value) {
  TypeSpec type;
  const auto kind = reader.required(value, "kind");
  if (!kind) return type;
  switch (reader.one_of(*kind, {"tensor", "sequence", "optional"})) {
    case 0: {
      if (const auto dtype = reader.required(value, "dtype")) type.dtype = reader.dtype(*dtype);
      const auto shape = reader.required(value, "shape");
      if (!shape || shape->is(Kind::kNull) || !reader.expect(*shape, Kind::kArray)) return type;
      reader.at_most(*shape, EB_MAX_RANK, "dimensions");
      if (!reader.ok()) return type;
      type.shape.emplace();
      for (const Value dim : *shape) type.shape->push_back(read_dim(reader, dim));
      return type;
    }
    case 1:
      type.kind = EB_KIND_SEQUENCE;
      break;
    default:
      type.kind = EB_KIND_OPTIONAL;
  }
  if (const auto element = reader.required(value, "element")) {
    type.element = std::make_shared<const TypeSpec>(read_type(reader, *element));
  }
  return type;
}

std::vector<ValueSpec> read_specs(ManifestReader& reader, const Value& specs, std::size_t limit,
                                  std::string_view what) {
  std::vector<ValueSpec> out;
  if (!reader.expect(specs, Kind::kArray)) return out;
  reader.at_most(specs, limit, what);
  std::set<std::string, std::less<>> names;
  for (const Value spec : specs) {
    if (!reader.ok()) break;
    ValueSpec value;
    if (const auto name = reader.required(spec, "name")) {
      value.name = reader.name(*name);
      if (reader.ok() && !names.insert(value.name).second) {
        reader.fail(*name, "the name " + json::in_quotes(value.name) + " stands there twice");
      }
    }
    if (const auto type = reader.required(spec, "type")) value.type = read_type(reader, *type);
    if (const auto layout = reader.required(spec, "layout"); layout && !layout->is(Kind::kNull)) {
      value.layout = reader.string(*layout);
    }
    out.push_back(std::move(value));
  }
  return out;
}

void read_symbols(ManifestReader& reader, const Value& symbols, Signature& out) {
  if (!reader.expect(symbols, Kind::kObject)) return;
  for (const Value entry : symbols) {
    if (!reader.ok()) return;
    if (entry.key().empty() || entry.key().size() > kMaxNameBytes) {
      reader.fail(entry, "a symbol has a name of 1 to " + std::to_string(kMaxNameBytes) + " bytes");
      return;
    }
    SymbolRange range;
    if (const auto min = reader.required(entry, "min")) range.min = reader.integer(*min, 0);
    if (const auto max = reader.required(entry, "max"); max && !max->is(Kind::kNull)) {
      range.max = reader.integer(*max, range.min);
    }
    if (const auto best = reader.required(entry, "best")) {
      range.best = reader.integer(*best, range.min, range.max.value_or(json::kMaxInteger));
    }
    if (const auto step = ManifestReader::member(entry, "step")) {
      range.step = reader.integer(*step, 1);
      if (reader.ok() && range.best % range.step != 0) {
        reader.fail(*step, "best is " + std::to_string(range.best) + ", expected a multiple of the step " +
                               std::to_string(range.step));
      }
    }
    out.symbols.emplace(entry.key(), range);
  }
}

/// Checks a STRUCTURE and marks the outputs that it refers to.
void check_structure(ManifestReader& reader, const Value& structure, std::vector<bool>& referred) {
  if (!reader.ok() || !reader.expect(structure, Kind::kObject)) return;
  std::optional<Value> found;
  for (const char* key : {"tensor", "tuple", "list", "dict", "constant"}) {
    const auto here = ManifestReader::member(structure, key);
    if (here && found) {
      reader.fail(structure, "more than one of 'tensor', 'tuple', 'list', 'dict' and 'constant'");
      return;
    }
    if (here) found = here;
  }
  if (!found) {
    reader.fail(structure, "expected one of 'tensor', 'tuple', 'list', 'dict' and 'constant'");
    return;
  }
  const std::string_view key = found->key();
  if (key == "constant") {
    if (found->is(Kind::kArray) || found->is(Kind::kObject)) {
      reader.fail(*found,
                  std::string("expected null, a bool, a number or a string, got ") + json::kind_name(found->kind()));
    }
    return;
  }
  if (key == "tensor") {
    const auto outputs = static_cast<std::int64_t>(referred.size());
    if (outputs == 0) {
      reader.fail(*found, "there is no output to refer to");
      return;
    }
    const std::int64_t index = reader.integer(*found, 0, outputs - 1);
    referred[static_cast<std::size_t>(index)] = true;
    return;
  }
  if (!reader.expect(*found, Kind::kArray)) return;
  for (const Value item : *found) {
    if (key != "dict") {
      check_structure(reader, item, referred);
      continue;
    }
    if (!reader.expect(item, Kind::kArray)) return;
    if (item.size() != 2) {
      reader.fail(item, "expected [KEY, STRUCTURE], got " + std::to_string(item.size()) + " items");
      return;
    }
    auto pair = item.begin();
    const Value dict_key = *pair;
    if (dict_key.is(Kind::kArray) || dict_key.is(Kind::kObject)) {
      reader.fail(dict_key,
                  std::string("expected null, a bool, a number or a string, got ") + json::kind_name(dict_key.kind()));
      return;
    }
    check_structure(reader, *++pair, referred);
  }
}

}  // namespace

void read_signature(ManifestReader& reader, const Value& signature, Signature& out) {
  if (const auto inputs = reader.required(signature, "inputs")) {
    out.inputs = read_specs(reader, *inputs, kMaxInputs, "inputs");
  }
  if (const auto outputs = reader.required(signature, "outputs")) {
    out.outputs = read_specs(reader, *outputs, kMaxOutputs, "outputs");
  }
  if (const auto symbols = reader.required(signature, "symbols")) read_symbols(reader, *symbols, out);
  const auto structure = reader.required(signature, "output_structure");
  if (!reader.ok()) return;
  std::vector<bool> referred(out.outputs.size(), false);
  check_structure(reader, *structure, referred);
  if (!reader.ok()) return;
  const auto missing = std::find(referred.begin(), referred.end(), false);
  if (missing != referred.end()) {
    reader.fail(*structure, "output " + std::to_string(missing - referred.begin()) + " is not referred to");
  }
  out.output_structure_json = json::compact(*structure);
}

}  // namespace edgebuild::bundle
