#include "bundle/manifest.hpp"

#include <algorithm>
#include <new>

#include "bundle/json.hpp"
#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {

using json::Kind;
using json::Value;

namespace {

constexpr int kMajor = 1;

constexpr char kManifestName[] = "manifest.json";
constexpr char kReservedNames[][16] = {"manifest.json", "manifest.sha256", "manifest.sig"};

bool is_segment_character(char c) noexcept {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

}  // namespace

bool is_valid_segment(std::string_view text) noexcept {
  return !text.empty() && text.size() <= kMaxSegmentBytes && text.front() != '-' && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), is_segment_character);
}

bool is_valid_path(std::string_view path) noexcept {
  if (path.size() > kMaxPathBytes) return false;
  for (std::size_t segments = 1; segments <= kMaxPathSegments; ++segments) {
    const std::size_t slash = path.find('/');
    if (!is_valid_segment(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
  return false;
}

std::string folded(std::string_view path) {
  std::string out(path);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

void read_files(ManifestReader& reader, const Value& files, Manifest& manifest) {
  if (!reader.expect(files, Kind::kObject)) return;
  reader.at_most(files, kMaxFiles, "files");
  std::set<std::string, std::less<>> seen;
  for (const char* name : kReservedNames) seen.insert(name);
  for (const Value entry : files) {
    if (!reader.ok()) return;
    const std::string_view path = entry.key();
    if (!is_valid_path(path)) {
      reader.fail(entry, "not a path that a bundle may hold: " + json::in_quotes(path));
      return;
    }
    if (!seen.insert(folded(path)).second) {
      reader.fail(entry, "the path is reserved, or equals another one but for upper and lower case");
      return;
    }
    FileEntry file;
    if (const auto size = reader.required(entry, "size")) {
      file.size = static_cast<std::uint64_t>(reader.integer(*size, 0));
    }
    if (const auto hash = reader.required(entry, "sha256")) file.sha256 = reader.sha256(*hash);
    if (const auto mode = reader.required(entry, "mode")) file.executable = reader.one_of(*mode, {"0644", "0755"}) == 1;
    manifest.files.emplace(path, std::move(file));
  }
  for (const Value entry : files) {
    if (!reader.ok()) return;
    const std::string path = folded(entry.key());
    for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      if (seen.find(std::string_view(path).substr(0, slash)) != seen.end()) {
        reader.fail(entry, "'" + path.substr(0, slash) + "' is a file and a folder at once");
      }
    }
  }
}

namespace {

/// Format and required features: what decides whether the rest can be judged at all.
void read_format(ManifestReader& reader, const Value& top, Manifest& manifest) {
  const auto format = reader.required(top, "format");
  if (!format) return;
  const auto major = reader.required(*format, "major");
  const auto minor = reader.required(*format, "minor");
  if (!major || !minor) return;
  const std::int64_t number = reader.integer(*major, 0);
  manifest.minor = static_cast<int>(std::min<std::int64_t>(reader.integer(*minor, 0), 0x7fffffff));
  if (!reader.ok()) return;
  if (number != kMajor) {
    reader.fail(*major,
                "this reader knows format " + std::to_string(kMajor) + ", the bundle has format " +
                    std::to_string(number) + "; use the edgerun that comes with the bundle, or a newer one",
                Code::kIncompatible);
    return;
  }
  manifest.major = kMajor;
  if (const auto features = reader.required(top, "required_features")) {
    manifest.required_features = reader.strings(*features);
    for (const std::string& feature : manifest.required_features) {
      if (!reader.ok() || feature == kKeepsState) continue;
      reader.fail(
          *features,
          "the bundle needs " + json::in_quotes(feature) + ", which this reader does not know; use a newer edgebuild",
          Code::kIncompatible);
    }
  }
}

void read_target(ManifestReader& reader, const Value& target, Manifest& manifest) {
  if (const auto name = reader.required(target, "name")) manifest.target_name = reader.segment(*name);
  if (const auto arch = reader.required(target, "arch")) {
    manifest.arch = reader.segment(*arch);  // any: another architecture is incompatible, not corrupt
  }
  if (const auto triple = reader.required(target, "triple")) manifest.triple = reader.string(*triple);
}

/// Every file is there for something.
void check_all_referred(ManifestReader& reader, const Value& files) {
  for (const Value entry : files) {
    const std::string_view path = entry.key();
    const std::string_view folder = path.substr(0, path.find('/') + 1);  // "" if there is no folder
    if (folder == "bin/" || folder == "lib/" || folder == "licenses/") continue;
    if (reader.referred().find(path) != reader.referred().end()) continue;
    reader.fail(entry, "nothing refers to this file, and it does not lie in bin/, lib/ or licenses/");
    return;
  }
}

void read_manifest(ManifestReader& reader, const Value& top, Manifest& manifest) {
  read_format(reader, top, manifest);
  if (!reader.ok()) return;
  if (const auto name = reader.required(top, "name")) manifest.name = reader.segment(*name);
  if (const auto producer = reader.required(top, "producer")) manifest.producer = reader.string_map(*producer);
  if (const auto target = reader.required(top, "target")) read_target(reader, *target, manifest);
  if (reader.ok() && !is_valid_segment(manifest.name + "." + manifest.target_name)) {
    reader.fail(top,
                "name and target.name have more than " + std::to_string(kMaxSegmentBytes - 1) + " characters together");
  }
  if (const auto features = reader.required(top, "optional_features"))
    manifest.optional_features = reader.strings(*features);
  for (const char* key : {"quantization", "placement"}) {
    if (const auto value = reader.required(top, key)) reader.object_or_null(*value);
  }
  // Files first, because variants and goldens refer to them.
  const auto files = reader.required(top, "files");
  if (files) read_files(reader, *files, manifest);
  if (!reader.ok()) return;
  if (const auto target = reader.required(top, "target")) {
    if (const auto loader = ManifestReader::member(*target, "loader")) read_loader(reader, *loader, manifest);
  }
  if (const auto signature = reader.required(top, "signature")) read_signature(reader, *signature, manifest.signature);
  if (!reader.ok()) return;
  if (const auto value = reader.required(top, "preprocessing")) read_preprocessing(reader, *value, manifest);
  if (!reader.ok()) return;
  if (const auto variants = reader.required(top, "variants")) read_variants(reader, *variants, manifest);
  if (!reader.ok()) return;
  if (const auto goldens = reader.required(top, "goldens")) read_goldens(reader, *goldens, manifest);
  if (reader.ok()) check_all_referred(reader, *files);
}

Result<Manifest> parse(std::string_view text) {
  Result<json::Document> document = json::parse(text);
  if (!document.ok()) return document.status().with_context(kManifestName);
  ManifestReader reader;
  Manifest manifest;
  read_manifest(reader, Value(document.value(), 0), manifest);
  if (!reader.ok()) return reader.status().with_context(kManifestName);
  return manifest;
}

}  // namespace

Result<Manifest> parse_manifest(std::string_view json) {
  try {
    return parse(json);
  } catch (const std::bad_alloc&) {
    return Status(Code::kResourceExhausted, "manifest.json: out of memory while reading it");
  } catch (const std::exception& error) {
    return Status(Code::kInternal, std::string("manifest.json: ") + error.what());
  }
}

}  // namespace edgebuild::bundle
