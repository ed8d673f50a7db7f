// An opened bundle: its manifest, and its files handed out only after their bytes were hashed.

#ifndef EDGEBUILD_SRC_BUNDLE_BUNDLE_HPP_
#define EDGEBUILD_SRC_BUNDLE_BUNDLE_HPP_

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "bundle/manifest.hpp"
#include "edgebuild/status.hpp"

static_assert(sizeof(off_t) == 8, "compile with _FILE_OFFSET_BITS=64");

namespace edgebuild::bundle {

/// A read-only private mapping of a whole file. An empty file maps to a null pointer of size 0.
class MappedFile {
 public:
  MappedFile(const void* data, std::size_t size) noexcept : data_(data), size_(size) {}
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();
  [[nodiscard]] const void* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  const void* data_;
  std::size_t size_;
};

/// An open file descriptor, closed at the end.
class FileDescriptor {
 public:
  FileDescriptor() noexcept = default;
  explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  [[nodiscard]] int get() const noexcept { return fd_; }

 private:
  int fd_ = -1;
};

struct OpenOptions {
  std::string cache_dir;     ///< Where an archive is unpacked; empty: $XDG_CACHE_HOME/edgebuild/bundles (or ~/.cache).
  std::string runtime_path;  ///< Folders of external engines; empty: $EDGEBUILD_RUNTIME_PATH.
};

struct OpenArchive;   // unpack.hpp
struct HashCounters;  // file_system.hpp

class Bundle {
 public:
  /// Opens either form and checks structure, manifest hash and manifest. File hashes are checked on use.
  ///
  /// @return kNotFound; kCorrupt; kIncompatible; kIo; kResourceExhausted (no space to unpack).
  static Result<Bundle> open(const std::string& path, const OpenOptions& options = {});

  [[nodiscard]] const Manifest& manifest() const noexcept { return manifest_; }
  [[nodiscard]] const std::string& id() const noexcept { return id_; }
  /// The directory form, also of a bundle that was given as an archive.
  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  /// Bytes hashed so far by the calls below (for measuring).
  [[nodiscard]] std::uint64_t hashed_bytes() const noexcept { return *hashed_bytes_; }
  /// Time spent hashing so far, in nanoseconds.
  [[nodiscard]] std::uint64_t hashing_ns() const noexcept { return *hashing_ns_; }

  /// Maps a listed file and checks size and hash of the mapped bytes.
  Result<std::shared_ptr<const MappedFile>> map(const std::string& path) const;
  /// Opens a listed file and checks the bytes behind the descriptor, for dlopen("/proc/self/fd/N").
  Result<FileDescriptor> open_file(const std::string& path) const;
  /// Finds an external engine library in the runtime path, checked likewise; links are followed, as the hash decides.
  /// @return kNotFound (nowhere under this name); kIncompatible (only with another size or hash).
  Result<FileDescriptor> open_external(const Engine& engine) const {
    return open_external(engine, engine.library, engine.external_file);
  }
  /// The same for one of the libraries that the engine needs.
  Result<FileDescriptor> open_external(const Engine& engine, const std::string& file, const FileEntry& entry) const;
  /// Checks every file; of a bundle that was given as an archive, those inside the archive as well as the unpacked
  /// ones. `progress` (may be empty) hears each path with the bytes done and in all.
  Status verify(const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress = {}) const;

 private:
  static Result<Bundle> open_unguarded(const std::string& path, const OpenOptions& options);
  [[nodiscard]] Status open_directory(FileDescriptor root);
  [[nodiscard]] HashCounters counters() const noexcept;
  [[nodiscard]] const FileEntry* find(const std::string& path) const;

  Manifest manifest_;
  std::string id_;
  std::filesystem::path root_;
  std::shared_ptr<const FileDescriptor> root_fd_;
  std::shared_ptr<const OpenArchive> archive_;  ///< If opened from one whose files' bytes were not read: see verify.
  std::string runtime_path_;
  std::shared_ptr<std::atomic<std::uint64_t>> hashed_bytes_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::shared_ptr<std::atomic<std::uint64_t>> hashing_ns_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

}  // namespace edgebuild::bundle

#endif  // EDGEBUILD_SRC_BUNDLE_BUNDLE_HPP_
