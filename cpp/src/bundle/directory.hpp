// The directory form of a bundle: exactly the listed files, and no link anywhere.

#ifndef EDGEBUILD_SRC_BUNDLE_DIRECTORY_HPP_
#define EDGEBUILD_SRC_BUNDLE_DIRECTORY_HPP_

#include <string>

#include "bundle/manifest.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::bundle {

/// The manifest's text, held to manifest.sha256, and the bundle's id.
struct ManifestText {
  std::string json;
  std::string id;
};

/// Checks that `sha256_file` (the content of manifest.sha256) is the hash of `json`.
Result<ManifestText> check_manifest_hash(std::string json, const std::string& sha256_file);

/// Reads manifest.json and manifest.sha256 of an opened folder. kCorrupt, kIo.
Result<ManifestText> read_manifest_text(int root);

/// Checks that a folder holds exactly the manifest's files, with their sizes: no other file, no empty folder, no link.
[[nodiscard]] Status check_directory(int root, const Manifest& manifest);

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_DIRECTORY_HPP_
