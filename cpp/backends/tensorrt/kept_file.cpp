#include "tensorrt/kept_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "bundle/file_system.hpp"
#include "bundle/sha256.hpp"

namespace edgebuild::tensorrt {
namespace {

using bundle::errno_status;
using bundle::FileDescriptor;

// magic, size of the header, size of the content, SHA-256 of sizes, header and content; then header and content.
constexpr std::array<char, 8> kMagic = {'E', 'B', 'K', 'E', 'P', 'T', '0', '1'};
constexpr std::size_t kPrefix = kMagic.size() + 2 * sizeof(std::uint64_t) + 32;
constexpr std::uint64_t kMostHeader = std::uint64_t{1} << 20;

void put_number(std::uint8_t* at, std::uint64_t number) {
  for (unsigned i = 0; i < 8; ++i) at[i] = static_cast<std::uint8_t>(number >> (8 * i));
}

std::uint64_t get_number(const std::uint8_t* at) {
  std::uint64_t number = 0;
  for (unsigned i = 0; i < 8; ++i) number |= std::uint64_t{at[i]} << (8 * i);
  return number;
}

bundle::Sha256Digest digest_of(const std::uint8_t* sizes, const std::string& header,
                               std::span<const std::byte> content) {
  bundle::Sha256 hash;
  hash.update(sizes, 2 * sizeof(std::uint64_t));
  hash.update(header.data(), header.size());
  hash.update(content.data(), content.size());
  return hash.finish();
}

/// Whether nobody but `user` and root could have written what `info` describes.
Status check_owner(const struct stat& info, uid_t user, const std::string& what) {
  if (info.st_uid != user && info.st_uid != 0) {
    return Status(Code::kIo, what + " belongs to user " + std::to_string(info.st_uid) + ", expected " +
                                 std::to_string(user) + " or root");
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return Status(Code::kIo, what + " can be written by others than its owner");
  }
  return {};
}

Status write_parts(int fd, const std::string& header, std::span<const std::byte> content, const std::string& path) {
  std::array<std::uint8_t, kPrefix> prefix{};
  std::memcpy(prefix.data(), kMagic.data(), kMagic.size());
  put_number(prefix.data() + 8, header.size());
  put_number(prefix.data() + 16, content.size());
  const bundle::Sha256Digest digest = digest_of(prefix.data() + 8, header, content);
  std::memcpy(prefix.data() + 24, digest.data(), digest.size());
  EDGEBUILD_RETURN_IF_ERROR(bundle::write_all(fd, prefix.data(), prefix.size(), path));
  EDGEBUILD_RETURN_IF_ERROR(bundle::write_all(fd, header.data(), header.size(), path));
  EDGEBUILD_RETURN_IF_ERROR(bundle::write_all(fd, content.data(), content.size(), path));
  if (::fchmod(fd, 0600) != 0 || ::fsync(fd) != 0) return errno_status(errno, path, Code::kIo);
  return {};
}

Result<KeptFile> read_open(int fd, uid_t user, const std::string& path) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return errno_status(errno, path, Code::kIo);
  if (!S_ISREG(info.st_mode)) return Status(Code::kIo, path + " is no regular file");
  EDGEBUILD_RETURN_IF_ERROR(check_owner(info, user, path));
  const auto size = static_cast<std::uint64_t>(info.st_size);
  std::array<std::uint8_t, kPrefix> prefix{};
  if (size < prefix.size())
    return Status(Code::kCorrupt, path + " is cut off: it has " + std::to_string(size) + " bytes");
  EDGEBUILD_RETURN_IF_ERROR(bundle::read_at(fd, prefix.data(), prefix.size(), 0, path));
  if (std::memcmp(prefix.data(), kMagic.data(), kMagic.size()) != 0) {
    return Status(Code::kCorrupt, path + " is no file of edgebuild's, or of another version");
  }
  const std::uint64_t header_size = get_number(prefix.data() + 8);
  const std::uint64_t content_size = get_number(prefix.data() + 16);
  const std::uint64_t rest = size - prefix.size();
  if (header_size > kMostHeader || header_size > rest || content_size != rest - header_size) {
    return Status(Code::kCorrupt,
                  path + " is cut off or damaged: its " + std::to_string(size) + " bytes are not what its head says");
  }
  KeptFile file;
  file.header.resize(static_cast<std::size_t>(header_size));
  file.content = Bytes(static_cast<std::size_t>(content_size));
  EDGEBUILD_RETURN_IF_ERROR(bundle::read_at(fd, file.header.data(), file.header.size(), prefix.size(), path));
  EDGEBUILD_RETURN_IF_ERROR(
      bundle::read_at(fd, file.content.data(), file.content.size(), prefix.size() + header_size, path));
  const bundle::Sha256Digest digest = digest_of(prefix.data() + 8, file.header, file.content.span());
  if (std::memcmp(digest.data(), prefix.data() + 24, digest.size()) != 0) {
    return Status(Code::kCorrupt, path + " is damaged: its hash is not the one that it was written with");
  }
  return file;
}

}  // namespace

Status make_private_folder(const std::string& path) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (!part.empty() && ::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) {
      return errno_status(errno, "state folder " + part, Code::kUsage);
    }
    if (slash == std::string::npos) break;
  }
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return {};
  return Status(Code::kUsage, "state folder " + path + ": expected a folder, it is something else");
}

Status write_kept(const std::string& folder, const std::string& name, const std::string& header,
                  std::span<const std::byte> content) {
  const std::string path = folder + "/" + name;
  std::string temporary = path + ".XXXXXX";
  const FileDescriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) return errno_status(errno, path, Code::kIo);
  Status status = write_parts(file.get(), header, content, path);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) status = errno_status(errno, path, Code::kIo);
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

Result<KeptFile> read_kept(const std::string& folder, const std::string& name, uid_t user) {
  const std::string path = folder + "/" + name;
  const FileDescriptor root(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) return errno_status(errno, path, Code::kNotFound);
  // O_NONBLOCK: a FIFO of this name must not hang the load.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  const FileDescriptor file(::openat(root.get(), name.c_str(), kFlags));
  if (file.get() < 0) {
    if (errno == ELOOP) return Status(Code::kIo, path + " is a link");
    return errno_status(errno, path, Code::kNotFound);
  }
  struct stat info = {};
  if (::fstat(root.get(), &info) != 0) return errno_status(errno, folder, Code::kIo);
  EDGEBUILD_RETURN_IF_ERROR(check_owner(info, user, "folder " + folder));
  return read_open(file.get(), user, path);
}

}  // namespace edgebuild::tensorrt
