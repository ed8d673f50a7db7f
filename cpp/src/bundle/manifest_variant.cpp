#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {

using json::Kind;
using json::Value;

namespace {

std::string last_segment(const std::string& path) { return path.substr(path.rfind('/') + 1); }

NeededLibrary read_library(ManifestReader& reader, const Value& value, bool external, const Manifest& manifest) {
  NeededLibrary out;
  if (!external) {
    out.library = reader.reference(value, manifest);
    return out;
  }
  if (const auto file = reader.required(value, "file")) out.library = reader.segment(*file);
  if (const auto size = reader.required(value, "size")) {
    out.external_file.size = static_cast<std::uint64_t>(reader.integer(*size, 0));
  }
  if (const auto hash = reader.required(value, "sha256")) out.external_file.sha256 = reader.sha256(*hash);
  return out;
}

Engine read_engine(ManifestReader& reader, const Value& value, const Manifest& manifest) {
  Engine engine;
  if (const auto name = reader.required(value, "name")) engine.name = reader.string(*name);
  if (const auto version = reader.required(value, "version")) engine.version = reader.string(*version);
  const auto linkage = reader.required(value, "linkage");
  const auto library = reader.required(value, "library");
  if (!linkage || !library) return engine;
  engine.external = reader.one_of(*linkage, {"bundled", "external"}) == 1;
  if (!reader.ok()) return engine;
  NeededLibrary main = read_library(reader, *library, engine.external, manifest);
  std::set<std::string> names{last_segment(main.library)};
  engine.library = std::move(main.library);
  engine.external_file = std::move(main.external_file);
  const auto needed = ManifestReader::member(value, "needed");
  if (!needed || !reader.expect(*needed, Kind::kArray)) return engine;
  reader.at_most(*needed, kMaxLibraries, "libraries");
  for (const Value one : *needed) {
    if (!reader.ok()) return engine;
    engine.needed.push_back(read_library(reader, one, engine.external, manifest));
    if (reader.ok() && !names.insert(last_segment(engine.needed.back().library)).second) {
      reader.fail(one, "two libraries of the engine have the same name");
    }
  }
  return engine;
}

Requirements read_requires(ManifestReader& reader, const Value& value) {
  Requirements out;
  if (!reader.expect(value, Kind::kObject)) return out;
  if (const auto features = ManifestReader::member(value, "cpu_features")) out.cpu_features = reader.strings(*features);
  if (const auto glibc = ManifestReader::member(value, "glibc")) out.glibc = reader.dotted_pair(*glibc);
  if (const auto memory = ManifestReader::member(value, "memory_bytes")) {
    out.memory_bytes = static_cast<std::uint64_t>(reader.integer(*memory, 0));
  }
  if (const auto capability = ManifestReader::member(value, "compute_capability")) {
    out.compute_capability = reader.dotted_pair(*capability);
  }
  return out;
}

void check_count(ManifestReader& reader, const Value& names, std::size_t expected, std::string_view what) {
  if (reader.ok() && names.size() != expected) {
    reader.fail(names, "expected " + std::to_string(expected) + ", one for each " + std::string(what) +
                           " of the signature, got " + std::to_string(names.size()));
  }
}

void read_engine_names(ManifestReader& reader, const Value& value, const Signature& signature, Variant& variant) {
  if (const auto inputs = reader.required(value, "inputs"); inputs && reader.expect(*inputs, Kind::kArray)) {
    check_count(reader, *inputs, signature.inputs.size(), "input");
    for (const Value name : *inputs) {
      if (!reader.ok()) return;
      variant.inputs.push_back(name.is(Kind::kNull) ? std::nullopt : std::optional<std::string>(reader.name(name)));
    }
  }
  if (const auto outputs = reader.required(value, "outputs"); outputs && reader.expect(*outputs, Kind::kArray)) {
    check_count(reader, *outputs, signature.outputs.size(), "output");
    for (const Value name : *outputs) {
      if (!reader.ok()) return;
      variant.outputs.push_back(reader.name(name));
    }
  }
}

void read_tolerances(ManifestReader& reader, const Value& value, const Signature& signature, Variant& variant) {
  if (!reader.expect(value, Kind::kObject)) return;
  for (const Value entry : value) {
    if (!reader.ok()) return;
    Tolerance tolerance;
    if (const auto atol = reader.required(entry, "atol")) tolerance.atol = reader.number(*atol, 0.0);
    if (const auto rtol = reader.required(entry, "rtol")) tolerance.rtol = reader.number(*rtol, 0.0);
    variant.tolerances.emplace(entry.key(), tolerance);
  }
  for (const ValueSpec& output : signature.outputs) {
    if (variant.tolerances.find(output.name) == variant.tolerances.end()) {
      reader.fail(value, "no entry for the output " + json::in_quotes(output.name));
    }
  }
  // Every output has an entry; so more entries than outputs means a name that the signature does not know.
  if (value.size() != signature.outputs.size())
    reader.fail(value, "an entry for an output that the signature does not have");
}

Variant read_variant(ManifestReader& reader, const Value& value, const Manifest& manifest) {
  Variant variant;
  if (const auto name = reader.required(value, "name")) variant.name = reader.segment(*name);
  if (const auto backend = reader.required(value, "backend")) variant.backend = reader.segment(*backend);
  if (const auto precision = reader.required(value, "precision")) variant.precision = reader.string(*precision);
  if (const auto model = reader.required(value, "model")) variant.model = reader.reference(*model, manifest);
  if (const auto data = reader.required(value, "data"); data && reader.expect(*data, Kind::kArray)) {
    std::set<std::string> segments;  // the model refers to its data by the last segment
    for (const Value path : *data) {
      if (!reader.ok()) break;
      variant.data.push_back(reader.reference(path, manifest));
      const std::string& text = variant.data.back();
      if (reader.ok() && !segments.insert(text.substr(text.rfind('/') + 1)).second) {
        reader.fail(path, "two paths of 'data' end alike");
      }
    }
  }
  read_engine_names(reader, value, manifest.signature, variant);
  if (const auto engine = reader.required(value, "engine"); engine && !engine->is(Kind::kNull)) {
    variant.engine = read_engine(reader, *engine, manifest);
  }
  if (const auto plugin = reader.required(value, "plugin"); plugin && !plugin->is(Kind::kNull)) {
    variant.plugin = reader.reference(*plugin, manifest);
  }
  if (const auto options = reader.required(value, "options")) variant.options = reader.string_map(*options);
  if (const auto needs = reader.required(value, "requires")) variant.requires_ = read_requires(reader, *needs);
  if (const auto speed = reader.required(value, "speed")) {
    variant.speed_measured = reader.one_of(*speed, {"measured", "unproved"}) == 0;
  }
  if (const auto tolerances = reader.required(value, "tolerances")) {
    read_tolerances(reader, *tolerances, manifest.signature, variant);
  }
  if (const auto numerics = reader.required(value, "numerics")) reader.object_or_null(*numerics);
  return variant;
}

}  // namespace

void read_loader(ManifestReader& reader, const Value& value, Manifest& manifest) {
  Loader loader;
  std::set<std::string> names;
  const auto take = [&](const Value& at) {
    std::string path = reader.reference(at, manifest);
    if (!reader.ok()) return path;
    if (!path.starts_with("lib/")) reader.fail(at, "expected a path in lib/");
    if (!names.insert(last_segment(path)).second) reader.fail(at, "two libraries have the same name");
    return path;
  };
  if (const auto program = reader.required(value, "program")) {
    loader.program = take(*program);
    if (reader.ok() && !manifest.files.at(loader.program).executable) {
      reader.fail(*program, "expected a file of mode 0755");
    }
  }
  if (const auto libraries = reader.required(value, "libraries");
      libraries && reader.expect(*libraries, Kind::kArray)) {
    reader.at_most(*libraries, kMaxLibraries, "libraries");
    for (const Value library : *libraries) {
      if (!reader.ok()) return;
      loader.libraries.push_back(take(library));
    }
  }
  if (const auto glibc = reader.required(value, "glibc")) loader.glibc = reader.dotted_pair(*glibc);
  manifest.loader = std::move(loader);
}

void read_variants(ManifestReader& reader, const Value& variants, Manifest& manifest) {
  if (!reader.expect(variants, Kind::kArray)) return;
  reader.at_most(variants, kMaxVariants, "variants");
  if (variants.size() == 0) reader.fail(variants, "expected at least one variant");
  std::set<std::string, std::less<>> names;
  for (const Value value : variants) {
    if (!reader.ok()) return;
    Variant variant = read_variant(reader, value, manifest);
    if (reader.ok() && !names.insert(variant.name).second) {
      reader.fail(value, "the variant name " + json::in_quotes(variant.name) + " stands there twice");
    }
    manifest.variants.push_back(std::move(variant));
  }
}

}  // namespace edgebuild::bundle
