// What the bundle tests share: a manifest that is sound, and writers of directories and archives that can be told to
// write unsound ones. The archive writer is its own description of the format, apart from the reader's.

#ifndef EDGEBUILD_TESTS_BUNDLE_SUPPORT_HPP_
#define EDGEBUILD_TESTS_BUNDLE_SUPPORT_HPP_

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace edgebuild::testing {

using Json = nlohmann::json;

/// A folder that is removed at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The bytes of a bundle's files by path, without manifest.*.
using Files = std::map<std::string, std::string>;

/// Files of a small bundle: one model, its weights, two goldens, a runner.
[[nodiscard]] Files sample_files();
/// A sound manifest of `files`, which hold at least those of sample_files().
[[nodiscard]] Json sample_manifest(const Files& files);
/// `files` and the manifest's two files.
[[nodiscard]] Files with_manifest(Files files, const std::string& manifest);

/// One entry of an archive; every field of its header can be spoilt.
struct TarEntry {
  std::string path = {};  ///< With the top folder.
  std::string data = {};
  std::string mode = "0000644";
  char type = '0';
  std::string link = {};
  std::uint64_t mtime = 0;
};

[[nodiscard]] std::string tar_header(const TarEntry& entry);
/// Header, data and padding of each in the given order, and the two end blocks.
[[nodiscard]] std::string tar(const std::vector<TarEntry>& entries);
/// Entries of a sound archive, sorted; bin/ is executable.
[[nodiscard]] std::vector<TarEntry> tar_entries(const Files& files, const std::string& top = "m.x86-64");

[[nodiscard]] std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, const std::string& data);
void write_directory(const std::filesystem::path& root, const Files& files);

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_BUNDLE_SUPPORT_HPP_
