#include "bundle/bundle.hpp"
#include "command.hpp"
#include "order.hpp"
#include "signature_json.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Result;
using edgebuild::Signature;
using edgebuild::Status;
using edgebuild::bundle::Bundle;
using edgebuild::bundle::Manifest;
using edgebuild::bundle::Variant;

std::uint64_t total_size(const Manifest& manifest) {
  std::uint64_t total = 0;
  for (const auto& [path, entry] : manifest.files) total += entry.size;
  return total;
}

template <typename Map>
void write_map(JsonWriter& json, const Map& map) {
  json.begin_object();
  for (const auto& [name, value] : map) json.member(name, value);
  json.end_object();
}

void write_list(JsonWriter& json, const std::vector<std::string>& list) {
  json.begin_array();
  for (const std::string& item : list) json.value(item);
  json.end_array();
}

void write_variant(JsonWriter& json, const Manifest& manifest, const Variant& variant) {
  json.begin_object().member("name", variant.name).member("backend", variant.backend);
  json.member("precision", variant.precision).member("model", variant.model).key("data");
  write_list(json, variant.data);
  std::uint64_t size = 0;
  const auto add = [&](const std::string& path) {
    if (const auto file = manifest.files.find(path); file != manifest.files.end()) size += file->second.size;
  };
  add(variant.model);
  for (const std::string& path : variant.data) add(path);
  json.member("model_bytes", size).key("engine");
  if (variant.engine) {
    json.begin_object().member("name", variant.engine->name).member("version", variant.engine->version);
    json.member("linkage", variant.engine->external ? "external" : "bundled");
    json.member("library", variant.engine->library).end_object();
  } else {
    json.null();
  }
  json.key("plugin");
  if (variant.plugin) {
    json.value(*variant.plugin);
  } else {
    json.null();
  }
  json.key("options");
  write_map(json, variant.options);
  json.key("requires").begin_object();
  if (!variant.requires_.cpu_features.empty()) {
    json.key("cpu_features");
    write_list(json, variant.requires_.cpu_features);
  }
  if (variant.requires_.glibc) json.member("glibc", *variant.requires_.glibc);
  if (variant.requires_.memory_bytes) json.member("memory_bytes", *variant.requires_.memory_bytes);
  if (variant.requires_.compute_capability) json.member("compute_capability", *variant.requires_.compute_capability);
  json.end_object().member("speed", variant.speed_measured ? "measured" : "unproved").key("tolerances").begin_object();
  for (const auto& [name, tolerance] : variant.tolerances) {
    json.key(name).begin_object().member("atol", tolerance.atol).member("rtol", tolerance.rtol).end_object();
  }
  json.end_object().end_object();
}

std::string to_json(const Bundle& bundle, const CommonOptions& options) {
  const Manifest& manifest = bundle.manifest();
  JsonWriter json;
  json.begin_object().member("schema", "edgebuild.inspect/1").member("path", options.bundle).member("id", bundle.id());
  json.key("format").begin_object().member("major", manifest.major).member("minor", manifest.minor).end_object();
  json.member("name", manifest.name).key("producer");
  write_map(json, manifest.producer);
  json.key("target").begin_object().member("name", manifest.target_name).member("arch", manifest.arch);
  json.member("triple", manifest.triple);
  if (manifest.loader) {
    json.key("loader").begin_object().member("program", manifest.loader->program).key("libraries");
    write_list(json, manifest.loader->libraries);
    json.member("glibc", manifest.loader->glibc).end_object();
  }
  json.end_object().key("required_features");
  write_list(json, manifest.required_features);
  json.key("optional_features");
  write_list(json, manifest.optional_features);
  json.key("signature");
  write_signature(json, manifest.signature);
  json.key("variants").begin_array();
  for (const Variant& variant : manifest.variants) write_variant(json, manifest, variant);
  json.end_array();
  write_order(json, manifest, held_order(bundle, options));
  json.member("goldens", manifest.goldens.size()).member("size_bytes", total_size(manifest));
  json.key("files").begin_object();
  for (const auto& [name, entry] : manifest.files) {
    json.key(name).begin_object().member("size", entry.size).member("sha256", entry.sha256);
    json.member("mode", entry.executable ? "0755" : "0644").end_object();
  }
  json.end_object().member("exit_code", 0).end_object();
  return json.text() + "\n";
}

std::string spec_table(const std::vector<edgebuild::ValueSpec>& specs) {
  Table table({{"name", {}}, {"type", {}}, {"layout", {}}}, 0);
  for (const auto& spec : specs) table.add({spec.name, to_string(spec.type), spec.layout.empty() ? "-" : spec.layout});
  return table.text();
}

std::string to_text(const Bundle& bundle, const CommonOptions& options) {
  const Manifest& manifest = bundle.manifest();
  std::string text = bold(manifest.name + " for " + manifest.target_name) + "\n";
  text += format("  id       %s\n", bundle.id().c_str());
  text += format("  format   %d.%d\n", manifest.major, manifest.minor);
  text += format("  machine  %s (%s)\n", manifest.arch.c_str(), manifest.triple.c_str());
  text += format("  size     %s in %zu files, %zu goldens\n", format_bytes(total_size(manifest)).c_str(),
                 manifest.files.size(), manifest.goldens.size());
  text += heading("inputs") + spec_table(manifest.signature.inputs);
  text += heading("outputs") + spec_table(manifest.signature.outputs);
  if (!manifest.signature.symbols.empty()) {
    Table table(
        {{"symbol", {}}, {"min", Table::Align::kRight}, {"best", Table::Align::kRight}, {"max", Table::Align::kRight}},
        0);
    for (const auto& [name, range] : manifest.signature.symbols) {
      table.add(
          {name, std::to_string(range.min), std::to_string(range.best), range.max ? std::to_string(*range.max) : "-"});
    }
    text += heading("symbols") + table.text();
  }
  Table variants({{"variant", {}},
                  {"backend", {}},
                  {"precision", {}},
                  {"model", Table::Align::kRight},
                  {"engine", {}},
                  {"speed", {}}},
                 0);
  for (const Variant& variant : manifest.variants) {
    std::uint64_t size = 0;
    if (const auto file = manifest.files.find(variant.model); file != manifest.files.end()) size = file->second.size;
    for (const std::string& path : variant.data) {
      if (const auto file = manifest.files.find(path); file != manifest.files.end()) size += file->second.size;
    }
    std::string engine = "-";
    if (variant.engine) engine = variant.engine->version + (variant.engine->external ? " (external)" : " (bundled)");
    variants.add({variant.name, variant.backend, variant.precision, format_bytes(size), engine,
                  variant.speed_measured ? "measured" : "unproved"});
  }
  return text + heading("variants") + variants.text() + heading("order in which they are tried") +
         order_text(manifest, held_order(bundle, options));
}

}  // namespace

Status inspect_command(const CommonOptions& options) {
  Result<Bundle> bundle = Bundle::open(options.bundle);
  if (!bundle.ok()) return bundle.status();
  return print(options.json ? to_json(bundle.value(), options) : to_text(bundle.value(), options));
}

}  // namespace edgerun
