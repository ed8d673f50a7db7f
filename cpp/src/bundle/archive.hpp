// The archive form of a bundle: a strict subset of ustar. docs/bundle-format.md has its bytes.

#ifndef EDGEBUILD_SRC_BUNDLE_ARCHIVE_HPP_
#define EDGEBUILD_SRC_BUNDLE_ARCHIVE_HPP_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "bundle/manifest.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::bundle {

inline constexpr std::size_t kBlock = 512;
inline constexpr std::uint64_t kMaxSignatureBytes = 64 * 1024;  ///< Of manifest.sig.
inline constexpr std::uint64_t kHashFileBytes = 65;             ///< Of manifest.sha256.

/// A file inside an archive.
struct ArchiveMember {
  std::uint64_t offset = 0;  ///< Of its data.
  std::uint64_t size = 0;
  bool executable = false;
};

struct ArchiveIndex {
  std::string top;
  std::map<std::string, ArchiveMember, std::less<>> members;  ///< By path below the top folder.
};

using ArchiveHeader = std::array<char, kBlock>;

/// The only header that this file may have; nothing if there is none. `path` begins with the top folder.
[[nodiscard]] std::optional<ArchiveHeader> make_header(std::string_view path, std::uint64_t size, bool executable,
                                                       std::uint64_t mtime);

/// Walks over the whole archive: checks each header, each padding byte, the order and the end; not the files' bytes.
///
/// @return kCorrupt for anything but what the writer would have written; kIo.
Result<ArchiveIndex> read_index(int fd);

/// Checks that the archive holds exactly the manifest's files, with their sizes and modes, under its top folder.
[[nodiscard]] Status check_members(const ArchiveIndex& index, const Manifest& manifest);

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_ARCHIVE_HPP_
