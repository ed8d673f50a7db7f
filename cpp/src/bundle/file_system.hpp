// Files by descriptor: opened below a folder without following links, read and written whole, hashed.

#ifndef EDGEBUILD_SRC_BUNDLE_FILE_SYSTEM_HPP_
#define EDGEBUILD_SRC_BUNDLE_FILE_SYSTEM_HPP_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "bundle/bundle.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::bundle {

/// What the operating system's error means here, with its text: "WHAT: No space left on device".
/// `missing` is the code for something that does not exist or is of another kind (a link, a folder, a file).
[[nodiscard]] Status errno_status(int error, const std::string& what, Code missing);

/// Opens `path` (checked: is_valid_path) below a folder, for reading. No part of it may be a link. Never blocks.
/// @return kCorrupt if there is no such file, or a link in the way.
Result<FileDescriptor> open_below(int root, const std::string& path);

/// The size of a regular file; kCorrupt if it is something else.
Result<std::uint64_t> regular_file_size(int fd, const std::string& what);

/// Reads exactly `size` bytes at `offset`; kCorrupt ("truncated") if there are fewer.
Status read_at(int fd, void* data, std::size_t size, std::uint64_t offset, const std::string& what);

/// Reads a whole small file below a folder; kCorrupt if it has more than `limit` bytes.
Result<std::string> read_small_file(int root, const std::string& path, std::uint64_t limit);

/// Writes all of it; kResourceExhausted if the disk is full.
Status write_all(int fd, const void* data, std::size_t size, const std::string& what);

/// How much was hashed, and in what time. Shared by the copies of a Bundle.
struct HashCounters {
  std::atomic<std::uint64_t>* bytes;
  std::atomic<std::uint64_t>* nanoseconds;
};

/// Hears how many more bytes are done.
using BytesDone = std::function<void(std::uint64_t)>;

/// Maps the whole file behind a descriptor and checks the mapped bytes against size and hash.
///
/// A mapping of a file that somebody truncates at the same time raises SIGBUS when its lost pages are touched; nothing
/// in a process can exclude that. The size is therefore looked at again before each piece is hashed, and at the end.
Result<std::shared_ptr<const MappedFile>> map_checked(int fd, const FileEntry& expected, const std::string& what,
                                                      const HashCounters& counters, const BytesDone& done = {});

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_FILE_SYSTEM_HPP_
