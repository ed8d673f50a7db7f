#include "files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include "signals.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;

Status system_error(const std::string& what, const std::string& path, int number) {
  Code code = Code::kIo;
  if (number == ENOENT || number == ENOTDIR) code = Code::kNotFound;
  if (number == ENOSPC || number == EDQUOT || number == ENOMEM || number == EFBIG || number == EMFILE ||
      number == ENFILE) {
    code = Code::kResourceExhausted;
  }
  return {code, what + " " + path + ": " + std::strerror(number)};
}

}  // namespace

Result<std::shared_ptr<const FileBytes>> FileBytes::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return system_error("can't open", path, errno);
  struct stat info = {};
  std::shared_ptr<FileBytes> file(new FileBytes());
  if (::fstat(fd, &info) != 0 || S_ISDIR(info.st_mode)) {
    const int number = S_ISDIR(info.st_mode) ? EISDIR : errno;
    ::close(fd);
    return system_error("can't read", path, number);
  }
  if (S_ISREG(info.st_mode) && info.st_size > 0) {
    if (static_cast<std::uint64_t>(info.st_size) > PTRDIFF_MAX) {  // on a 32-bit board
      ::close(fd);
      return system_error("can't map", path, EFBIG);
    }
    const auto size = static_cast<std::size_t>(info.st_size);
    void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int number = errno;
    ::close(fd);
    if (mapping == MAP_FAILED) return system_error("can't map", path, number);
    file->mapping_ = mapping;
    file->bytes_ = {static_cast<const std::byte*>(mapping), size};
    return std::shared_ptr<const FileBytes>(std::move(file));
  }
  constexpr std::size_t kChunk = 1U << 16U;
  while (true) {
    const std::size_t at = file->read_.size();
    file->read_.resize(at + kChunk);
    const ssize_t got = ::read(fd, file->read_.data() + at, kChunk);
    const int number = errno;
    file->read_.resize(at + static_cast<std::size_t>(got > 0 ? got : 0));
    if (got > 0 || (got < 0 && number == EINTR)) continue;
    ::close(fd);
    if (got < 0) return system_error("can't read", path, number);
    break;
  }
  file->bytes_ = file->read_;
  return std::shared_ptr<const FileBytes>(std::move(file));
}

FileBytes::~FileBytes() {
  if (mapping_ != nullptr) ::munmap(mapping_, bytes_.size());
}

PendingFiles::~PendingFiles() {
  if (fd_ >= 0) ::close(fd_);
  for (const File& file : files_) {
    if (file.temporary.empty()) continue;
    ::unlink(file.temporary.c_str());
    keep_on_signal(file.slot);
  }
}

Status PendingFiles::open(const std::string& path) {
  EDGEBUILD_RETURN_IF_ERROR(close());
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    // A device or a pipe can't be replaced, only written to.
    if (S_ISDIR(info.st_mode)) return system_error("can't write", path, EISDIR);
    fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd_ < 0) return system_error("can't write", path, errno);
    files_.push_back({path, "", -1});
    return {};
  }
  std::string temporary = path + ".XXXXXX";
  fd_ = ::mkostemp(temporary.data(), O_CLOEXEC);
  if (fd_ < 0) return system_error("can't write", path, errno);
  files_.push_back({path, temporary, remove_on_signal(temporary)});
  const mode_t mask = ::umask(0);  // there is no way to ask without setting it
  ::umask(mask);
  ::fchmod(fd_, 0666 & ~mask);
  return {};
}

Status PendingFiles::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::write(fd_, data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return system_error("can't write", files_.back().path, errno);
    }
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Status PendingFiles::close() {
  if (fd_ < 0) return {};
  const int failed = ::close(std::exchange(fd_, -1));
  return failed != 0 ? system_error("can't write", files_.back().path, errno) : Status();
}

Status PendingFiles::commit() {
  EDGEBUILD_RETURN_IF_ERROR(close());
  for (File& file : files_) {
    if (file.temporary.empty()) continue;
    if (std::rename(file.temporary.c_str(), file.path.c_str()) != 0)
      return system_error("can't write", file.path, errno);
    keep_on_signal(file.slot);
    file.temporary.clear();
  }
  return {};
}

}  // namespace edgerun
