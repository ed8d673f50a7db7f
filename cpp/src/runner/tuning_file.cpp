// The file of a tuning: read with suspicion, replaced in one step.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "bundle/file_system.hpp"
#include "runner/tuning.hpp"

namespace edgebuild::runner {
namespace {

using bundle::errno_status;
using bundle::FileDescriptor;

/// What `mkdir -p` does; folders that it makes are the user's alone.
Status make_folders(const std::string& path) {
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

Status write_and_sync(int fd, const std::string& text, const std::string& path) {
  EDGEBUILD_RETURN_IF_ERROR(bundle::write_all(fd, text.data(), text.size(), path));
  if (::fchmod(fd, 0644) != 0 || ::fsync(fd) != 0) return errno_status(errno, path, Code::kIo);
  return {};
}

}  // namespace

Result<Tuning> read_tuning(const std::string& folder, const TuningKey& here, uid_t user) {
  const FileDescriptor root(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) {
    if (errno == ENOENT) return Status(Code::kNotFound, "there is no state folder");
    return errno_status(errno, "its folder can't be read", Code::kIo);
  }
  const std::string name = tuning_file_name(here.threads);
  // O_NONBLOCK: a FIFO of this name must not hang the load.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  const FileDescriptor file(::openat(root.get(), name.c_str(), kFlags));
  if (file.get() < 0) {
    if (errno == ENOENT) return Status(Code::kNotFound, "there is no " + name);
    if (errno == ELOOP) return Status(Code::kIo, "it is a link");
    return errno_status(errno, "it can't be read", Code::kIo);
  }
  struct stat info = {};
  if (::fstat(file.get(), &info) != 0) return errno_status(errno, "it can't be read", Code::kIo);
  if (!S_ISREG(info.st_mode)) return Status(Code::kIo, "it is no regular file");
  if (info.st_uid != user && info.st_uid != 0) {
    return Status(Code::kIo, "it belongs to user " + std::to_string(info.st_uid) + ", not to " + std::to_string(user));
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) return Status(Code::kIo, "others than its owner can write it");
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > kMaxTuningBytes) {
    return Status(Code::kCorrupt, "it has " + std::to_string(size) + " bytes, at most " +
                                      std::to_string(kMaxTuningBytes) + " are read");
  }
  std::string text(static_cast<std::size_t>(size), '\0');
  EDGEBUILD_RETURN_IF_ERROR(bundle::read_at(file.get(), text.data(), text.size(), 0, "it can't be read"));
  Result<Tuning> tuning = parse_tuning(text);
  if (!tuning.ok()) return tuning;
  if (const auto stale = why_stale(tuning.value().key, here)) return Status(Code::kIncompatible, *stale);
  return tuning;
}

Result<std::string> write_tuning(const std::string& folder, const Tuning& tuning) {
  EDGEBUILD_RETURN_IF_ERROR(make_folders(folder));
  const std::string path = folder + "/" + tuning_file_name(tuning.key.threads);
  std::string temporary = path + ".XXXXXX";
  const FileDescriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (file.get() < 0) return errno_status(errno, path, Code::kIo);
  Status status = write_and_sync(file.get(), tuning_text(tuning), path);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = errno_status(errno, path, Code::kUsage);
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return path;
}

}  // namespace edgebuild::runner
