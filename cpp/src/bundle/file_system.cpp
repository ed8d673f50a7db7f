#include "bundle/file_system.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <system_error>

#include "bundle/sha256.hpp"

namespace edgebuild::bundle {

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<void*>(data_), size_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Status errno_status(int error, const std::string& what, Code missing) {
  const std::string message = what + ": " + std::error_code(error, std::generic_category()).message();
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:  // O_NOFOLLOW met a link
    case ENXIO:  // a socket, or a device without a driver
      return Status(missing, message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:  // the process's limit on file sizes, or the file system's
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return Status(Code::kResourceExhausted, message);
    default:
      return Status(Code::kIo, message);
  }
}

Result<FileDescriptor> open_below(int root, const std::string& path) {
  // O_NONBLOCK: a FIFO under a listed name must not hang us; it has no effect on a regular file.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  FileDescriptor folder;
  std::size_t begin = 0;
  for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', begin)) {
    const std::string segment = path.substr(begin, slash - begin);
    FileDescriptor next(::openat(begin == 0 ? root : folder.get(), segment.c_str(), kFlags | O_DIRECTORY));
    if (next.get() < 0) return errno_status(errno, path, Code::kCorrupt);
    folder = std::move(next);
    begin = slash + 1;
  }
  FileDescriptor file(::openat(begin == 0 ? root : folder.get(), path.c_str() + begin, kFlags));
  if (file.get() < 0) return errno_status(errno, path, Code::kCorrupt);
  return file;
}

Result<std::uint64_t> regular_file_size(int fd, const std::string& what) {
  struct stat status = {};
  if (::fstat(fd, &status) != 0) return errno_status(errno, what, Code::kCorrupt);
  if (!S_ISREG(status.st_mode)) return Status(Code::kCorrupt, what + ": not a regular file");
  return static_cast<std::uint64_t>(status.st_size);
}

Status read_at(int fd, void* data, std::size_t size, std::uint64_t offset, const std::string& what) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = ::pread(fd, bytes, size, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, what, Code::kCorrupt);
    if (got == 0) {
      return Status(Code::kCorrupt, what + ": truncated: " + std::to_string(size) + " more bytes expected at offset " +
                                        std::to_string(offset));
    }
    bytes += got;
    size -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<std::string> read_small_file(int root, const std::string& path, std::uint64_t limit) {
  Result<FileDescriptor> file = open_below(root, path);
  if (!file.ok()) return file.status();
  const Result<std::uint64_t> size = regular_file_size(file.value().get(), path);
  if (!size.ok()) return size.status();
  if (size.value() > limit) {
    return Status(Code::kCorrupt,
                  path + ": expected at most " + std::to_string(limit) + " bytes, got " + std::to_string(size.value()));
  }
  std::string text(static_cast<std::size_t>(size.value()), '\0');
  EDGEBUILD_RETURN_IF_ERROR(read_at(file.value().get(), text.data(), text.size(), 0, path));
  return text;
}

Status write_all(int fd, const void* data, std::size_t size, const std::string& what) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t put = ::write(fd, bytes, size);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return errno_status(put < 0 ? errno : ENOSPC, what, Code::kIo);
    bytes += put;
    size -= static_cast<std::size_t>(put);
  }
  return {};
}

namespace {

/// Small enough to stay in a second-level cache between the page fault and the hash, large enough to be few.
constexpr std::size_t kPiece = std::size_t{1} << 20;

Status check_size(int fd, const FileEntry& expected, const std::string& what) {
  const Result<std::uint64_t> size = regular_file_size(fd, what);
  if (!size.ok()) return size.status();
  if (size.value() == expected.size) return {};
  return Status(Code::kCorrupt,
                what + ": expected " + std::to_string(expected.size) + " bytes, got " + std::to_string(size.value()));
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> map_checked(int fd, const FileEntry& expected, const std::string& what,
                                                      const HashCounters& counters, const BytesDone& done) {
  EDGEBUILD_RETURN_IF_ERROR(check_size(fd, expected, what));
  if (expected.size > std::numeric_limits<std::size_t>::max() / 2) {
    return Status(Code::kResourceExhausted, what + ": too large for this machine's address space");
  }
  const auto size = static_cast<std::size_t>(expected.size);
  void* data = nullptr;
  if (size > 0) {
    data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return errno_status(errno, what + ": mmap", Code::kIo);
    // Starts reading a cold file in the background, ahead of the hash.
    (void)::madvise(data, size, MADV_WILLNEED);
  }
  auto mapped = std::make_shared<const MappedFile>(data, size);

  const auto start = std::chrono::steady_clock::now();
  Sha256 hash;
  for (std::size_t offset = 0; offset < size;) {
    const std::size_t piece = std::min(kPiece, size - offset);
    if (offset > 0) EDGEBUILD_RETURN_IF_ERROR(check_size(fd, expected, what));
#ifdef MADV_POPULATE_READ
    // One call instead of a page fault every 64 KiB; fails harmlessly before Linux 5.14.
    (void)::madvise(static_cast<char*>(data) + offset, piece, MADV_POPULATE_READ);
#endif
    hash.update(static_cast<const char*>(data) + offset, piece);
    offset += piece;
    if (done) done(piece);
  }
  const std::string digest = to_hex(hash.finish());
  *counters.bytes += size;
  *counters.nanoseconds += static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  EDGEBUILD_RETURN_IF_ERROR(check_size(fd, expected, what));
  if (digest != expected.sha256) {
    return Status(Code::kCorrupt, what + ": expected SHA-256 " + expected.sha256 + ", got " + digest +
                                      "; the file is damaged, get the bundle again");
  }
  return mapped;
}

}  // namespace edgebuild::bundle
