// Whole files in, and files out that appear complete or not at all.

#ifndef EDGEBUILD_APPS_EDGERUN_FILES_HPP_
#define EDGEBUILD_APPS_EDGERUN_FILES_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edgebuild/status.hpp"

namespace edgerun {

/// A whole file in memory: mapped, or read where it can't be (a pipe).
class FileBytes {
 public:
  /// @return kNotFound, kIo, kResourceExhausted, each naming the file.
  static edgebuild::Result<std::shared_ptr<const FileBytes>> open(const std::string& path);

  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;
  ~FileBytes();
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  FileBytes() = default;

  std::span<const std::byte> bytes_;
  std::vector<std::byte> read_;
  void* mapping_ = nullptr;
};

/// Output files that get their names together, once all of them are written.
///
/// Until then each has a temporary name beside its own; they are removed if this ends without a commit, also on
/// SIGINT and SIGTERM (see signals.hpp).
class PendingFiles {
 public:
  PendingFiles() = default;
  PendingFiles(const PendingFiles&) = delete;
  PendingFiles& operator=(const PendingFiles&) = delete;
  ~PendingFiles();

  /// Begins a file. @return kIo or kResourceExhausted, naming it.
  edgebuild::Status open(const std::string& path);
  /// Appends to the file begun last.
  edgebuild::Status write(std::span<const std::byte> data);
  /// Gives every file its name.
  edgebuild::Status commit();

 private:
  struct File {
    std::string path;
    std::string temporary;  ///< Empty: written in place (a device, a pipe).
    int slot;               ///< Of remove_on_signal.
  };

  edgebuild::Status close();

  std::vector<File> files_;
  int fd_ = -1;
};

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_FILES_HPP_
