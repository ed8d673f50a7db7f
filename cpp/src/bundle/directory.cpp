#include "bundle/directory.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <set>

#include "bundle/archive.hpp"
#include "bundle/file_system.hpp"
#include "bundle/json.hpp"
#include "bundle/manifest_reader.hpp"
#include "bundle/sha256.hpp"

namespace edgebuild::bundle {

Result<ManifestText> check_manifest_hash(std::string json, const std::string& sha256_file) {
  std::string id = sha256_hex(json.data(), json.size());
  if (sha256_file != id + "\n") {
    return Status(Code::kCorrupt, "manifest.sha256: expected " + id + " and a newline, got " +
                                      json::in_quotes(sha256_file) + "; the manifest is damaged, get the bundle again");
  }
  return ManifestText{std::move(json), std::move(id)};
}

Result<ManifestText> read_manifest_text(int root) {
  Result<std::string> json = read_small_file(root, "manifest.json", json::kMaxBytes);
  if (!json.ok()) return json.status().with_context("not a bundle");
  const Result<std::string> hash = read_small_file(root, "manifest.sha256", kHashFileBytes);
  if (!hash.ok()) return hash.status();
  return check_manifest_hash(std::move(json).value(), hash.value());
}

namespace {

class Walk {
 public:
  explicit Walk(const Manifest& manifest) : manifest_(manifest) {
    for (const auto& [path, entry] : manifest.files) {
      for (std::size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
        folders_.insert(path.substr(0, slash));
      }
    }
  }

  /// `prefix` is "" or ends with a slash. Recursion ends with the manifest's longest path.
  Status folder(FileDescriptor fd, const std::string& prefix) {
    const int copy = ::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0);  // closedir() closes what it was given
    DIR* stream = copy < 0 ? nullptr : ::fdopendir(copy);
    if (stream == nullptr) {
      const int error = errno;
      if (copy >= 0) FileDescriptor closes(copy);
      return errno_status(error, prefix.empty() ? "the bundle's folder" : prefix, Code::kCorrupt);
    }
    Status status;
    std::vector<std::string> below;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(stream);
      if (entry == nullptr) {
        if (errno != 0) status = errno_status(errno, prefix, Code::kIo);
        break;
      }
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      status = this->entry(fd.get(), name, prefix + name, below);
      if (!status.ok()) break;
    }
    ::closedir(stream);
    if (!status.ok()) return status;
    for (const std::string& name : below) {
      FileDescriptor next(::openat(fd.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (next.get() < 0) return errno_status(errno, prefix + name, Code::kCorrupt);
      EDGEBUILD_RETURN_IF_ERROR(folder(std::move(next), prefix + name + "/"));
    }
    return {};
  }

  Status all_found() const {
    for (const auto& [path, entry] : manifest_.files) {
      if (found_.find(path) == found_.end())
        return Status(Code::kCorrupt, path + ": listed in manifest.json, but missing");
    }
    return {};
  }

 private:
  Status entry(int folder, const std::string& name, const std::string& path, std::vector<std::string>& below) {
    const std::string shown = json::in_quotes(path);
    struct stat status = {};
    if (::fstatat(folder, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno_status(errno, shown, Code::kCorrupt);
    }
    if (S_ISDIR(status.st_mode)) {
      if (folders_.find(path) == folders_.end()) {
        return Status(Code::kCorrupt, shown + ": a folder that holds no file of manifest.json");
      }
      below.push_back(name);
      return {};
    }
    if (S_ISLNK(status.st_mode)) return Status(Code::kCorrupt, shown + ": a symbolic link; a bundle holds none");
    if (!S_ISREG(status.st_mode)) return Status(Code::kCorrupt, shown + ": not a regular file");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (path == "manifest.json" || path == "manifest.sha256") return {};
    if (path == "manifest.sig") {
      return size <= kMaxSignatureBytes
                 ? Status()
                 : Status(Code::kCorrupt, "manifest.sig: expected at most 65536 bytes, got " + std::to_string(size));
    }
    const auto file = manifest_.files.find(path);
    if (file == manifest_.files.end()) return Status(Code::kCorrupt, shown + ": not listed in manifest.json");
    if (file->second.size != size) {
      return Status(Code::kCorrupt,
                    shown + ": expected " + std::to_string(file->second.size) + " bytes, got " + std::to_string(size));
    }
    found_.insert(path);
    return {};
  }

  const Manifest& manifest_;
  std::set<std::string, std::less<>> folders_;
  std::set<std::string, std::less<>> found_;
};

}  // namespace

Status check_directory(int root, const Manifest& manifest) {
  // A descriptor of its own: reading a folder moves its position, and `root` is shared.
  FileDescriptor fd(::openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return errno_status(errno, "the bundle's folder", Code::kCorrupt);
  Walk walk(manifest);
  EDGEBUILD_RETURN_IF_ERROR(walk.folder(std::move(fd), ""));
  return walk.all_found();
}

}  // namespace edgebuild::bundle
