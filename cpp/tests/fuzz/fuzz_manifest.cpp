// parse_manifest on any bytes: no crash, no exception, no undefined behaviour; and what it accepts keeps the promises
// that the rest of the program builds on.
//
// The mutator works on two levels: bytes (libFuzzer's own), and values of a manifest that parses as JSON, so that the
// rules behind the JSON are reached too.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"
#include "support.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using edgebuild::testing::Json;

void require(bool condition) {
  if (!condition) std::abort();
}

/// Every value of the tree, the root too.
void collect(Json& value, std::vector<Json*>& out) {
  out.push_back(&value);
  if (value.is_structured()) {
    for (Json& item : value) collect(item, out);
  }
}

Json replacement(std::mt19937& random) {
  static const char* const kValues[] = {"null",
                                        "true",
                                        "-0",
                                        "1",
                                        "-1",
                                        "2.5",
                                        "9007199254740991",
                                        "9007199254740993",
                                        "\"\"",
                                        "\"..\"",
                                        "\"model/m.onnx\"",
                                        "\"float32\"",
                                        "\"a\\u0000b\"",
                                        "[]",
                                        "{}",
                                        "[[]]",
                                        "{\"kind\": \"none\"}",
                                        "{\"tensor\": 0}",
                                        "[4294967296, 4294967296]",
                                        "\"2.28\"",
                                        "\"sequence\"",
                                        "\"string\"",
                                        "\"int4\"",
                                        "0",
                                        "\"bundled\"",
                                        "1e-400"};
  return Json::parse(kValues[random() % std::size(kValues)]);
}

void mutate_tree(Json& root, std::mt19937& random) {
  std::vector<Json*> values;
  collect(root, values);
  Json& target = *values[random() % values.size()];
  const Json& other = *values[random() % values.size()];
  switch (random() % 5) {
    case 0:
      target = replacement(random);
      break;
    case 1: {
      Json copy = other;
      target = std::move(copy);
      break;
    }
    case 2:
      if (target.is_structured() && !target.empty()) {
        auto item = target.begin();
        std::advance(item, static_cast<std::ptrdiff_t>(random() % target.size()));
        target.erase(item);
      }
      break;
    case 3: {
      Json copy = other;
      if (target.is_array()) {
        target.push_back(std::move(copy));
      } else if (target.is_object()) {
        target["k" + std::to_string(random() % 4)] = std::move(copy);
      }
      break;
    }
    default:
      if (target.is_number_integer()) target = target.get<std::int64_t>() + static_cast<int>(random() % 5) - 2;
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed) {
  std::mt19937 random(seed);
  if (random() % 3 == 0) return LLVMFuzzerMutate(data, size, max_size);
  Json tree = Json::parse(data, data + size, nullptr, false);
  if (tree.is_discarded() || random() % 50 == 0) {
    tree = edgebuild::testing::sample_manifest(edgebuild::testing::sample_files());
  }
  mutate_tree(tree, random);
  const std::string text = tree.dump(-1, ' ', random() % 2 == 0, Json::error_handler_t::replace);
  if (text.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using edgebuild::Code;
  namespace bundle = edgebuild::bundle;
  const auto result = bundle::parse_manifest({reinterpret_cast<const char*>(data), size});
  if (!result.ok()) {
    require(result.status().code() == Code::kCorrupt || result.status().code() == Code::kIncompatible);
    require(!result.status().message().empty());
    require(result.status().message().find('\n') == std::string::npos);
    return 0;
  }
  const bundle::Manifest& manifest = result.value();
  require(manifest.major == 1 && !manifest.variants.empty());
  for (const auto& [path, entry] : manifest.files) {
    require(bundle::is_valid_path(path) && entry.sha256.size() == 64);
  }
  for (const bundle::Variant& variant : manifest.variants) {
    require(manifest.files.count(variant.model) == 1);
    require(variant.inputs.size() == manifest.signature.inputs.size());
    require(variant.outputs.size() == manifest.signature.outputs.size());
    require(variant.tolerances.size() == manifest.signature.outputs.size());
  }
  for (const bundle::Golden& golden : manifest.goldens) {
    require(golden.inputs.size() == manifest.signature.inputs.size());
    require(golden.outputs.size() == manifest.signature.outputs.size());
  }
  for (const auto& spec : manifest.signature.inputs) require(!to_string(spec.type).empty());
  return 0;
}
