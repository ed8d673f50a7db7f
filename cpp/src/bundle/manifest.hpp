// The manifest of a bundle as C++ values. docs/bundle-format.md is the specification.

#ifndef EDGEBUILD_SRC_BUNDLE_MANIFEST_HPP_
#define EDGEBUILD_SRC_BUNDLE_MANIFEST_HPP_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"
#include "preprocess/spec.hpp"

namespace edgebuild::bundle {

/// A file that the manifest lists.
struct FileEntry {
  std::uint64_t size = 0;
  std::string sha256;  ///< 64 lower-case hexadecimal digits.
  bool executable = false;
};

/// A library that an engine needs: a path of the bundle or an external file's name, as the engine's own.
struct NeededLibrary {
  std::string library;
  FileEntry external_file;
};

/// An engine library; bundled (a path of the bundle) or external (looked up by name and hash).
struct Engine {
  std::string name;
  std::string version;
  bool external = false;
  std::string library;                ///< Path in the bundle, or the external file's name.
  FileEntry external_file;            ///< If external.
  std::vector<NeededLibrary> needed;  ///< Each after what it needs itself.
};

/// A C library that the bundle brings because the board's own one is too old for the engine. Paths of the bundle.
struct Loader {
  std::string program;
  std::vector<std::string> libraries;
  std::string glibc;
};

struct Requirements {
  std::vector<std::string> cpu_features;
  std::optional<std::string> glibc;
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::string> compute_capability;
};

struct Tolerance {
  double atol = 0.0;
  double rtol = 0.0;
};

struct Variant {
  std::string name;
  std::string backend;
  std::string precision;
  std::string model;
  std::vector<std::string> data;
  std::vector<std::optional<std::string>> inputs;  ///< Engine names in signature order.
  std::vector<std::string> outputs;
  std::optional<Engine> engine;
  std::optional<std::string> plugin;
  std::map<std::string, std::string> options;
  Requirements requires_;
  bool speed_measured = false;
  std::map<std::string, Tolerance, std::less<>> tolerances;  ///< By output name.
};

/// A golden value: a file's description, a sequence, or nothing.
struct GoldenValue {
  eb_kind kind = EB_KIND_NONE;
  DType dtype = EB_DTYPE_UNDEFINED;
  std::vector<std::int64_t> shape;
  std::string file;
  std::vector<GoldenValue> items;
};

struct Golden {
  std::vector<GoldenValue> inputs;  ///< In signature order.
  std::vector<GoldenValue> outputs;
};

/// Name in required_features: the model keeps state from run to run, and the goldens are a sequence of steps.
inline constexpr std::string_view kKeepsState = "state";

struct Manifest {
  int major = 0;
  int minor = 0;
  std::string name;
  std::string target_name;
  std::string arch;
  std::string triple;
  std::optional<Loader> loader;
  std::map<std::string, std::string> producer;
  std::vector<std::string> required_features;
  std::vector<std::string> optional_features;
  Signature signature;
  std::vector<Variant> variants;
  std::vector<Golden> goldens;
  std::map<std::string, preprocess::ImageSpec, std::less<>> preprocessing;  ///< By input name.
  std::map<std::string, FileEntry, std::less<>> files;

  [[nodiscard]] bool keeps_state() const noexcept {
    return std::find(required_features.begin(), required_features.end(), kKeepsState) != required_features.end();
  }
};

/// Parses and checks a manifest against every rule of the format that can be checked without the files.
///
/// @return kCorrupt, naming the key and what was expected; kIncompatible for a newer major or an unknown required
/// feature.
[[nodiscard]] Result<Manifest> parse_manifest(std::string_view json);

/// Whether `path` is allowed inside a bundle (segments, lengths).
[[nodiscard]] bool is_valid_path(std::string_view path) noexcept;

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_MANIFEST_HPP_
