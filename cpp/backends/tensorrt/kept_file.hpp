// A file that is kept on this machine and believed only if it is whole and nobody else could have written it.
//
// A plan is code for the GPU, and TensorRT runs what it is given: so the bytes that are hashed are those that are used,
// in private memory, and a file of another user, or one that others can write, is none.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_KEPT_FILE_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_KEPT_FILE_HPP_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "edgebuild/status.hpp"

namespace edgebuild::tensorrt {

/// Bytes in memory of their own.
class Bytes {
 public:
  Bytes() = default;
  /// Not initialised. Throws std::bad_alloc.
  explicit Bytes(std::size_t size) : data_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}
  [[nodiscard]] std::byte* data() noexcept { return data_.get(); }
  [[nodiscard]] const std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<const std::byte> span() const noexcept { return {data_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

/// What a file holds: what it was made for, in lines of text, and its content.
struct KeptFile {
  std::string header;
  Bytes content;
};

/// Makes a folder and those above it, the user's alone.
/// @return kUsage if something else is in the way; kIo; kResourceExhausted.
[[nodiscard]] Status make_private_folder(const std::string& path);

/// Writes a file beside its name, durable, and moves it there: a reader sees the old one or the new one, whole.
///
/// @return kResourceExhausted (the disk is full), kIo; nothing half-written is left.
[[nodiscard]] Status write_kept(const std::string& folder, const std::string& name, const std::string& header,
                                std::span<const std::byte> content);

/// Reads a file whole and checks its hash. It must be a regular file (no link) of `user` or root, in a folder of
/// theirs, and neither may be writable by others.
///
/// @return kNotFound (there is none), or kCorrupt or kIo with the reason why it can't be believed.
[[nodiscard]] Result<KeptFile> read_kept(const std::string& folder, const std::string& name, uid_t user);

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_KEPT_FILE_HPP_
