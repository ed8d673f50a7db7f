#include "bundle/unpack.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <system_error>
#include <vector>

#include "bundle/json.hpp"
#include "bundle/sha256.hpp"

namespace edgebuild::bundle {
namespace {

constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr char kUnpackPrefix[] = ".unpack-";

Result<std::string> read_member(int fd, const ArchiveIndex& index, const std::string& path, std::uint64_t limit) {
  const auto member = index.members.find(path);
  if (member == index.members.end()) return Status(Code::kCorrupt, "archive: " + path + " is missing");
  if (member->second.size > limit) {
    return Status(Code::kCorrupt, "archive: " + path + ": expected at most " + std::to_string(limit) + " bytes, got " +
                                      std::to_string(member->second.size));
  }
  std::string text(static_cast<std::size_t>(member->second.size), '\0');
  EDGEBUILD_RETURN_IF_ERROR(read_at(fd, text.data(), text.size(), member->second.offset, path));
  return text;
}

/// Streams a member once: each chunk is hashed and handed to `sink`. Checks the hash of a listed file.
template <typename Sink>
Status stream_member(const OpenArchive& archive, const std::string& path, const ArchiveMember& member,
                     const HashCounters& counters, const Sink& sink) {
  const auto entry = archive.manifest.files.find(path);
  const bool listed = entry != archive.manifest.files.end();
  const std::unique_ptr<char[]> buffer(new char[kChunk]);
  Sha256 hash;
  std::chrono::steady_clock::duration spent{};
  for (std::uint64_t done = 0; done < member.size;) {
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(kChunk, member.size - done));
    EDGEBUILD_RETURN_IF_ERROR(read_at(archive.fd.get(), buffer.get(), size, member.offset + done, "archive: " + path));
    if (listed) {
      const auto start = std::chrono::steady_clock::now();
      hash.update(buffer.get(), size);
      spent += std::chrono::steady_clock::now() - start;
    }
    EDGEBUILD_RETURN_IF_ERROR(sink(buffer.get(), size));
    done += size;
  }
  if (!listed) return {};
  *counters.bytes += member.size;
  *counters.nanoseconds +=
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count());
  const std::string digest = to_hex(hash.finish());
  if (digest == entry->second.sha256) return {};
  return Status(Code::kCorrupt, "archive: " + path + ": expected SHA-256 " + entry->second.sha256 + ", got " + digest +
                                    "; the file is damaged, get the bundle again");
}

/// Opens the folder `path` of `root`, made if it is not there. `path` is "" or ends with a slash.
Result<FileDescriptor> make_folder(int root, const std::string& path) {
  FileDescriptor folder(::openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (std::size_t begin = 0; folder.get() >= 0 && begin < path.size();) {
    const std::size_t slash = path.find('/', begin);
    const std::string segment = path.substr(begin, slash - begin);
    if (::mkdirat(folder.get(), segment.c_str(), 0755) != 0 && errno != EEXIST) {
      return errno_status(errno, path, Code::kIo);
    }
    folder = FileDescriptor(::openat(folder.get(), segment.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    begin = slash + 1;
  }
  if (folder.get() < 0) return errno_status(errno, path, Code::kIo);
  return folder;
}

Status write_member(const OpenArchive& archive, int root, const std::string& path, const ArchiveMember& member,
                    const HashCounters& counters) {
  const std::size_t name = path.rfind('/') + 1;  // 0 if there is no slash
  const Result<FileDescriptor> folder = make_folder(root, path.substr(0, name));
  if (!folder.ok()) return folder.status();
  const FileDescriptor file(
      ::openat(folder.value().get(), path.c_str() + name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (file.get() < 0) return errno_status(errno, path, Code::kIo);
  EDGEBUILD_RETURN_IF_ERROR(stream_member(archive, path, member, counters, [&](const char* data, std::size_t size) {
    return write_all(file.get(), data, size, path);
  }));
  if (::fchmod(file.get(), member.executable ? 0755 : 0644) != 0) return errno_status(errno, path, Code::kIo);
  // The bytes must be on the disk before the rename is: else a power cut leaves empty files under the bundle's id.
  if (::fsync(file.get()) != 0) return errno_status(errno, path, Code::kIo);
  return {};
}

/// The sound folder of this id, if there is one. Its files' bytes are checked when they are used.
Result<Unpacked> find_existing(const OpenArchive& archive, const std::filesystem::path& path) {
  FileDescriptor root(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (root.get() < 0) return errno_status(errno, path.string(), Code::kNotFound);
  const Result<ManifestText> text = read_manifest_text(root.get());
  if (!text.ok()) return text.status();
  if (text.value().id != archive.text.id) return Status(Code::kCorrupt, path.string() + ": another bundle's folder");
  EDGEBUILD_RETURN_IF_ERROR(check_directory(root.get(), archive.manifest));
  return Unpacked{path, std::move(root), true};
}

/// Excludes other processes while folders of the cache are made, replaced or cleaned. Held for moments only. A file
/// system without locks goes without: then leftovers stay, and nothing else changes.
class CacheLock {
 public:
  explicit CacheLock(const std::string& cache_dir)
      : fd_(::open(cache_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
        held_(fd_.get() >= 0 && ::flock(fd_.get(), LOCK_EX) == 0) {}
  [[nodiscard]] bool held() const noexcept { return held_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  FileDescriptor fd_;
  bool held_;
};

/// Removes what killed processes left: a folder is in use as long as its maker holds a lock on it.
void remove_leftovers(const std::string& cache_dir) {
  std::error_code error;
  for (std::filesystem::directory_iterator entry(cache_dir, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename().string().rfind(kUnpackPrefix, 0) != 0) continue;
    const FileDescriptor fd(::open(entry->path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd.get() < 0 || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;
    std::error_code ignored;
    std::filesystem::remove_all(entry->path(), ignored);
  }
}

/// A folder that is removed unless it was renamed away.
class TemporaryFolder {
 public:
  TemporaryFolder() = default;
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  Status make(const std::string& cache_dir) {
    const CacheLock lock(cache_dir);
    if (lock.held()) remove_leftovers(cache_dir);
    std::string name = cache_dir + "/" + kUnpackPrefix + "XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) return errno_status(errno, "cache " + cache_dir, Code::kIo);
    path_ = name;
    fd_ = FileDescriptor(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd_.get() < 0) return errno_status(errno, name, Code::kIo);
    (void)::flock(fd_.get(), LOCK_EX | LOCK_NB);
    return {};
  }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// It has another name now.
  FileDescriptor release() {
    path_.clear();
    (void)::flock(fd_.get(), LOCK_UN);
    return std::move(fd_);
  }

 private:
  std::filesystem::path path_;
  FileDescriptor fd_;
};

/// Gives the finished folder its name, or takes the sound one that somebody else finished first.
Result<Unpacked> install(const OpenArchive& archive, TemporaryFolder& temporary, const std::string& cache_dir,
                         const std::filesystem::path& path) {
  const CacheLock lock(cache_dir);
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (::rename(temporary.path().c_str(), path.c_str()) == 0) {
      if (lock.fd() >= 0) (void)::fsync(lock.fd());
      return Unpacked{path, temporary.release(), false};
    }
    const int error = errno;
    if (error != EEXIST && error != ENOTEMPTY && error != ENOTDIR) return errno_status(error, path.string(), Code::kIo);
    Result<Unpacked> existing = find_existing(archive, path);
    if (existing.ok()) return existing;
    // Damaged. Moved into our own folder's place in two steps, so that no one meets a half-removed one under the id.
    const std::filesystem::path trash = temporary.path().string() + "-damaged";
    if (::rename(path.c_str(), trash.c_str()) != 0 && errno != ENOENT) {
      return errno_status(errno, path.string(), Code::kIo);
    }
    std::error_code ignored;
    std::filesystem::remove_all(trash, ignored);
  }
  return Status(Code::kIo, path.string() + ": the cache's folder can't be replaced; remove it");
}

}  // namespace

Result<OpenArchive> open_archive(FileDescriptor fd) {
  OpenArchive archive;
  Result<ArchiveIndex> index = read_index(fd.get());
  if (!index.ok()) return index.status();
  Result<std::string> json = read_member(fd.get(), index.value(), "manifest.json", json::kMaxBytes);
  if (!json.ok()) return json.status();
  const Result<std::string> hash = read_member(fd.get(), index.value(), "manifest.sha256", kHashFileBytes);
  if (!hash.ok()) return hash.status();
  Result<ManifestText> text = check_manifest_hash(std::move(json).value(), hash.value());
  if (!text.ok()) return text.status();
  Result<Manifest> manifest = parse_manifest(text.value().json);
  if (!manifest.ok()) return manifest.status();
  EDGEBUILD_RETURN_IF_ERROR(check_members(index.value(), manifest.value()));
  archive.fd = std::move(fd);
  archive.index = std::move(index).value();
  archive.text = std::move(text).value();
  archive.manifest = std::move(manifest).value();
  return archive;
}

Result<Unpacked> unpack(const OpenArchive& archive, const std::string& cache_dir, const HashCounters& counters) {
  const std::filesystem::path path = std::filesystem::path(cache_dir) / archive.text.id;
  Result<Unpacked> existing = find_existing(archive, path);
  if (existing.ok()) return existing;

  std::error_code error;
  std::filesystem::create_directories(cache_dir, error);
  if (error) {
    return errno_status(error.value(), "cache " + cache_dir, Code::kIo)
        .with_context("an archive is unpacked before it is used; XDG_CACHE_HOME chooses where");
  }
  TemporaryFolder temporary;
  EDGEBUILD_RETURN_IF_ERROR(temporary.make(cache_dir));
  for (const auto& [name, member] : archive.index.members) {
    const Status written = write_member(archive, temporary.fd(), name, member, counters);
    if (!written.ok()) {
      return written.code() == Code::kCorrupt ? written : written.with_context("unpacking into " + cache_dir);
    }
  }
  if (::fchmod(temporary.fd(), 0755) != 0 || ::fsync(temporary.fd()) != 0) {
    return errno_status(errno, temporary.path().string(), Code::kIo);
  }
  return install(archive, temporary, cache_dir, path);
}

Status verify_archive(const OpenArchive& archive, const HashCounters& counters,
                      const std::function<void(const std::string&, std::uint64_t)>& done) {
  for (const auto& [path, entry] : archive.manifest.files) {
    const auto member = archive.index.members.find(path);
    EDGEBUILD_RETURN_IF_ERROR(
        stream_member(archive, path, member->second, counters, [&, &name = path](const char*, std::size_t size) {
          if (done) done(name, size);
          return Status();
        }));
  }
  return {};
}

}  // namespace edgebuild::bundle
