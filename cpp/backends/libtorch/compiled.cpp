#include "libtorch/compiled.hpp"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

namespace edgebuild::libtorch {
namespace {

constexpr std::string_view kElf =
    "\x7f"
    "ELF";
constexpr std::size_t kMostAtOnce = 16;

/// How many runs go on at once; further ones wait for their turn. Each needs memory for its own intermediate results.
std::size_t runs_at_once() { return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostAtOnce); }

/// What was loaded stays: the system tells libraries apart by their path, may keep one that is closed, and would take
/// it for the next one in a memory file of the same number. So none is closed, and the same bytes are loaded once.
struct LoadedLibraries {
  std::mutex mutex;
  std::vector<std::pair<int, std::size_t>> files;  // Descriptor and size.
};

LoadedLibraries& loaded_libraries() {
  static auto* const instance = new LoadedLibraries;
  return *instance;
}

/// Whether everything that a loader would map is there: it does not look itself, and a page that is missing ends the
/// process.
bool is_whole(const eb_file& file) {
  ElfW(Ehdr) header;
  if (file.size < sizeof(header)) return false;
  const auto* const bytes = static_cast<const char*>(file.data);
  std::memcpy(&header, bytes, sizeof(header));
  if (header.e_phentsize != sizeof(ElfW(Phdr)) || header.e_phoff > file.size) return false;
  for (std::uint64_t i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) segment;
    const std::uint64_t at = header.e_phoff + i * sizeof(segment);
    if (at > file.size || file.size - at < sizeof(segment)) return false;
    std::memcpy(&segment, bytes + at, sizeof(segment));
    if (segment.p_offset > file.size || segment.p_filesz > file.size - segment.p_offset) return false;
  }
  return true;
}

bool holds(int descriptor, const eb_file& file) {
  void* const mapped = ::mmap(nullptr, static_cast<std::size_t>(file.size), PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapped == MAP_FAILED) return false;
  const bool same = std::memcmp(mapped, file.data, static_cast<std::size_t>(file.size)) == 0;
  ::munmap(mapped, static_cast<std::size_t>(file.size));
  return same;
}

bool write_all(int descriptor, const eb_file& file) {
  const auto* data = static_cast<const char*>(file.data);
  auto left = static_cast<std::size_t>(file.size);
  while (left > 0) {
    const ssize_t written = ::write(descriptor, data, left);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    left -= static_cast<std::size_t>(written);
  }
  return true;
}

/// A file in memory with the bytes of `file`, that nobody else has: the system loads libraries from files alone.
eb_status* memory_file(const eb_host_api& host, const eb_file& file, int* out) {
  LoadedLibraries& all = loaded_libraries();
  const std::lock_guard lock(all.mutex);
  for (const auto& [descriptor, size] : all.files) {
    if (size == file.size && holds(descriptor, file)) {
      *out = descriptor;
      return nullptr;
    }
  }
  const int descriptor = ::memfd_create("edgebuild-compiled", MFD_CLOEXEC);
  if (descriptor < 0 || !write_all(descriptor, file)) {
    const int error = errno;
    if (descriptor >= 0) ::close(descriptor);
    // Where the system allows no memory files at all, the next variant can serve.
    const bool lacking = descriptor >= 0 || error == ENOMEM || error == EMFILE || error == ENFILE;
    return plugin::make_error(host, lacking ? EB_RESOURCE_EXHAUSTED : EB_UNSUPPORTED,
                              std::string("no file in memory for ") + file.path + ": " + std::strerror(error));
  }
  all.files.emplace_back(descriptor, static_cast<std::size_t>(file.size));
  *out = descriptor;
  return nullptr;
}

}  // namespace

bool Compiled::is_one(const eb_file& file) noexcept {
  return file.size >= kElf.size() && std::memcmp(file.data, kElf.data(), kElf.size()) == 0;
}

eb_status* Compiled::load(const eb_host_api& host, const eb_file& file, std::unique_ptr<Compiled>* out) {
  if (!is_whole(file)) {
    return plugin::make_error(host, EB_UNSUPPORTED,
                              std::string("can't load ") + file.path + ": the library is cut off");
  }
  int descriptor = -1;
  EDGEBUILD_PLUGIN_TRY(memory_file(host, file, &descriptor));
  std::unique_ptr<Compiled> compiled(new Compiled);
  const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  compiled->runner_ = std::make_unique<torch::inductor::AOTIModelContainerRunnerCpu>(path, runs_at_once());
  *out = std::move(compiled);
  return nullptr;
}

}  // namespace edgebuild::libtorch
