#include "bundle/bundle.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <string_view>

#include "bundle/directory.hpp"
#include "bundle/file_system.hpp"
#include "bundle/unpack.hpp"

namespace edgebuild::bundle {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// The XDG base directory specification: relative paths count as unset.
Result<std::string> default_cache_dir() {
  if (const std::string cache = environment("XDG_CACHE_HOME"); cache.rfind('/', 0) == 0) {
    return cache + "/edgebuild/bundles";
  }
  if (const std::string home = environment("HOME"); home.rfind('/', 0) == 0) return home + "/.cache/edgebuild/bundles";
  return Status(Code::kUsage,
                "an archive is unpacked before it is used, and neither XDG_CACHE_HOME nor HOME says where; set one, or "
                "unpack it with tar xf and open the folder");
}

}  // namespace

Result<Bundle> Bundle::open(const std::string& path, const OpenOptions& options) {
  try {
    Result<Bundle> bundle = open_unguarded(path, options);
    if (!bundle.ok()) return bundle.status().with_context(path);
    return bundle;
  } catch (const std::bad_alloc&) {
    return Status(Code::kResourceExhausted, path + ": out of memory while opening the bundle");
  } catch (const std::exception& error) {
    return Status(Code::kInternal, path + ": " + error.what());
  }
}

Result<Bundle> Bundle::open_unguarded(const std::string& path, const OpenOptions& options) {
  // O_NONBLOCK: a FIFO must not hang us.
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) return errno_status(errno, "can't be opened", Code::kNotFound);
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) return errno_status(errno, "can't be opened", Code::kNotFound);

  Bundle bundle;
  bundle.runtime_path_ = options.runtime_path.empty() ? environment("EDGEBUILD_RUNTIME_PATH") : options.runtime_path;
  if (S_ISDIR(status.st_mode)) {
    bundle.root_ = path;
    EDGEBUILD_RETURN_IF_ERROR(bundle.open_directory(std::move(fd)));
    return bundle;
  }
  if (!S_ISREG(status.st_mode)) return Status(Code::kCorrupt, "neither a file nor a folder, so not a bundle");

  Result<OpenArchive> archive = open_archive(std::move(fd));
  if (!archive.ok()) return archive.status();
  std::string cache_dir = options.cache_dir;
  if (cache_dir.empty()) {
    Result<std::string> chosen = default_cache_dir();
    if (!chosen.ok()) return chosen.status();
    cache_dir = std::move(chosen).value();
  }
  Result<Unpacked> unpacked = unpack(archive.value(), cache_dir, bundle.counters());
  if (!unpacked.ok()) return unpacked.status();
  bundle.root_ = unpacked.value().path;
  bundle.root_fd_ = std::make_shared<const FileDescriptor>(std::move(unpacked.value().root));
  bundle.manifest_ = archive.value().manifest;
  bundle.id_ = archive.value().text.id;
  if (unpacked.value().reused) bundle.archive_ = std::make_shared<const OpenArchive>(std::move(archive).value());
  return bundle;
}

Status Bundle::open_directory(FileDescriptor root) {
  Result<ManifestText> text = read_manifest_text(root.get());
  if (!text.ok()) return text.status();
  Result<Manifest> manifest = parse_manifest(text.value().json);
  if (!manifest.ok()) return manifest.status();
  EDGEBUILD_RETURN_IF_ERROR(check_directory(root.get(), manifest.value()));
  manifest_ = std::move(manifest).value();
  id_ = std::move(text.value().id);
  root_fd_ = std::make_shared<const FileDescriptor>(std::move(root));
  return {};
}

HashCounters Bundle::counters() const noexcept { return {hashed_bytes_.get(), hashing_ns_.get()}; }

const FileEntry* Bundle::find(const std::string& path) const {
  const auto entry = manifest_.files.find(path);
  return entry == manifest_.files.end() ? nullptr : &entry->second;
}

Result<std::shared_ptr<const MappedFile>> Bundle::map(const std::string& path) const {
  const FileEntry* entry = find(path);
  if (entry == nullptr) return Status(Code::kNotFound, path + ": the bundle has no such file");
  const Result<FileDescriptor> fd = open_below(root_fd_->get(), path);
  if (!fd.ok()) return fd.status().with_context(root_.string());
  Result<std::shared_ptr<const MappedFile>> mapped = map_checked(fd.value().get(), *entry, path, counters());
  if (!mapped.ok()) return mapped.status().with_context(root_.string());
  return mapped;
}

Result<FileDescriptor> Bundle::open_file(const std::string& path) const {
  const FileEntry* entry = find(path);
  if (entry == nullptr) return Status(Code::kNotFound, path + ": the bundle has no such file");
  Result<FileDescriptor> fd = open_below(root_fd_->get(), path);
  if (!fd.ok()) return fd.status().with_context(root_.string());
  const Result<std::shared_ptr<const MappedFile>> mapped = map_checked(fd.value().get(), *entry, path, counters());
  if (!mapped.ok()) return mapped.status().with_context(root_.string());
  return fd;
}

Result<FileDescriptor> Bundle::open_external(const Engine& engine, const std::string& file,
                                             const FileEntry& entry) const {
  Status mismatch;
  std::string_view rest = runtime_path_;
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    const std::string folder(rest.substr(0, colon));
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
    if (folder.empty()) continue;
    const std::string path = folder + "/" + file;
    FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (fd.get() < 0) {
      const Status status = errno_status(errno, path, Code::kNotFound);
      if (status.code() == Code::kResourceExhausted) return status;
      continue;
    }
    const Result<std::shared_ptr<const MappedFile>> mapped = map_checked(fd.get(), entry, path, counters());
    if (mapped.ok()) return fd;
    if (mapped.status().code() == Code::kResourceExhausted) return mapped.status();
    if (mismatch.ok()) mismatch = Status(Code::kIncompatible, mapped.status().message());
  }
  if (!mismatch.ok()) return mismatch.with_context("the engine " + engine.name + " " + engine.version);
  return Status(Code::kNotFound, file + " (" + engine.name + " " + engine.version + ", SHA-256 " + entry.sha256 +
                                     ") is in no folder of EDGEBUILD_RUNTIME_PATH" +
                                     (runtime_path_.empty() ? ", which is not set" : ": " + runtime_path_));
}

Status Bundle::verify(const std::function<void(const std::string&, std::uint64_t, std::uint64_t)>& progress) const {
  std::uint64_t total = 0;
  for (const auto& [path, entry] : manifest_.files) total += entry.size;
  if (archive_) total *= 2;
  std::uint64_t done = 0;
  const auto advance = [&](const std::string& path, std::uint64_t bytes) {
    done += bytes;
    if (progress) progress(path, done, total);
  };
  // The unpacked files are as good as the archive was then; what the caller asks about is the archive as it is now.
  if (archive_) EDGEBUILD_RETURN_IF_ERROR(verify_archive(*archive_, counters(), advance));
  for (const auto& [path, entry] : manifest_.files) {
    advance(path, 0);
    const Result<FileDescriptor> fd = open_below(root_fd_->get(), path);
    if (!fd.ok()) return fd.status().with_context(root_.string());
    const Result<std::shared_ptr<const MappedFile>> mapped = map_checked(
        fd.value().get(), entry, path, counters(), [&, &name = path](std::uint64_t bytes) { advance(name, bytes); });
    if (!mapped.ok()) return mapped.status().with_context(root_.string());
  }
  return {};
}

}  // namespace edgebuild::bundle
