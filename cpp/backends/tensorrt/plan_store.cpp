#include "tensorrt/plan_store.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>
#include <vector>

#include "bundle/file_system.hpp"
#include "bundle/sha256.hpp"

namespace edgebuild::tensorrt {
namespace {

using bundle::errno_status;
using bundle::FileDescriptor;

constexpr char kLock[] = "lock";
constexpr char kTimingCache[] = "timing.cache";
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr auto kPoll = std::chrono::milliseconds(100);

std::string machine_text(const MachineKey& machine) {
  return "tensorrt " + machine.tensorrt + "\ncuda " + machine.cuda + "\ngpu " + machine.gpu + "\n";
}

/// Everything that must be equal; what follows it in a header is only recorded.
std::string key_text(const PlanKey& key) {
  return machine_text(key.machine) + "model " + key.model + "\n" + key.recipe + "end\n";
}

/// The value of the line that begins with `name`; empty if there is none.
std::string line_of(const std::string& text, const std::string& name) {
  const std::string all = "\n" + text;
  const std::size_t at = all.find("\n" + name + " ");
  if (at == std::string::npos) return {};
  const std::size_t begin = at + name.size() + 2;
  return all.substr(begin, all.find('\n', begin) - begin);
}

/// In which way a header is of something else; nothing if it is not.
std::optional<std::string> why_other(const std::string& header, const std::string& wanted) {
  if (header.starts_with(wanted)) return std::nullopt;
  for (const char* const name : {"tensorrt", "cuda", "gpu"}) {
    const std::string there = line_of(header, name);
    const std::string here = line_of(wanted, name);
    if (there != here) return std::string("it was made with ") + name + " " + there + ", here is " + here;
  }
  return "it was made from another model or recipe";
}

std::string in_mib(std::uint64_t bytes) { return std::to_string((bytes + kMiB - 1) / kMiB) + " MiB"; }

Status remove_file(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
  return errno_status(errno, path, Code::kIo);
}

/// Files that mkostemp made for a writer that did not live to move them.
void remove_leftovers(const std::string& folder) {
  DIR* const listing = ::opendir(folder.c_str());
  if (listing == nullptr) return;
  std::vector<std::string> names;
  while (const dirent* const entry = ::readdir(listing)) names.emplace_back(static_cast<const char*>(entry->d_name));
  ::closedir(listing);
  for (const std::string& name : names) {
    for (const char* const stem : {".plan.new.", ".cache."}) {
      const std::size_t at = name.rfind(stem);
      if (at != std::string::npos && name.size() - at == std::string_view(stem).size() + 6) {
        ::unlink((folder + "/" + name).c_str());
      }
    }
  }
}

}  // namespace

std::string PlanKey::id() const {
  const std::string text = model + "\n" + recipe;
  return bundle::sha256_hex(text.data(), text.size()).substr(0, 32);
}

PlanStore::PlanStore(const std::string& state_dir, uid_t user) : folder_(state_dir + "/plans"), user_(user) {}

Result<Bytes> PlanStore::read_plan(const PlanKey& key, const std::string& name) const {
  Result<KeptFile> file = read_kept(folder_, name, user_);
  if (!file.ok()) {
    const bool missing = file.status().code() == Code::kNotFound;
    return Status(Code::kNotFound, missing ? "there is no plan for this model on this machine yet"
                                           : "the plan is not used: " + file.status().message());
  }
  if (const auto other = why_other(file.value().header, key_text(key))) {
    return Status(Code::kNotFound, "the plan " + folder_ + "/" + name + " is not used: " + *other);
  }
  return std::move(file.value().content);
}

Result<Bytes> PlanStore::ready(const PlanKey& key) const { return read_plan(key, key.id() + ".plan"); }
Result<Bytes> PlanStore::pending(const PlanKey& key) const { return read_plan(key, key.id() + ".plan.new"); }

Result<BuilderLock> PlanStore::lock(const Progress& progress) const {
  EDGEBUILD_RETURN_IF_ERROR(make_private_folder(folder_));
  const std::string path = folder_ + "/" + kLock;
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.get() < 0) return errno_status(errno, path, Code::kIo);
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return errno_status(errno, path, Code::kIo);
    if (progress) progress("waiting for another process that builds a plan here", 0, 0);
    std::this_thread::sleep_for(kPoll);
  }
  remove_leftovers(folder_);
  return BuilderLock(std::move(file));
}

Status PlanStore::keep(const PlanKey& key, const std::string& driver, std::span<const std::byte> plan) const {
  return write_kept(folder_, key.id() + ".plan.new", key_text(key) + "driver " + driver + "\n", plan);
}

Status PlanStore::settle(const PlanKey& key, bool good) const {
  const std::string ready = folder_ + "/" + key.id() + ".plan";
  const std::string pending = ready + ".new";
  if (!good) return remove_file(pending);
  if (std::rename(pending.c_str(), ready.c_str()) != 0) return errno_status(errno, ready, Code::kIo);
  const FileDescriptor root(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0 || ::fsync(root.get()) != 0) return errno_status(errno, folder_, Code::kIo);
  return {};
}

Status PlanStore::remove(const PlanKey& key) const {
  EDGEBUILD_RETURN_IF_ERROR(remove_file(folder_ + "/" + key.id() + ".plan"));
  return remove_file(folder_ + "/" + key.id() + ".plan.new");
}

std::optional<Bytes> PlanStore::timing_cache(const MachineKey& machine) const {
  Result<KeptFile> file = read_kept(folder_, kTimingCache, user_);
  if (!file.ok() || file.value().header != machine_text(machine)) return std::nullopt;
  return std::move(file.value().content);
}

Status PlanStore::keep_timing_cache(const MachineKey& machine, std::span<const std::byte> cache) const {
  return write_kept(folder_, kTimingCache, machine_text(machine), cache);
}

BuildNeeds build_needs(std::uint64_t model_bytes, std::uint64_t workspace_mib) {
  constexpr std::uint64_t kBuilder = 512 * kMiB;  // TensorRT's own libraries and kernels, in memory
  constexpr std::uint64_t kPlanHead = 32 * kMiB;
  return {.disk_bytes = 2 * model_bytes + kPlanHead,
          .host_bytes = 3 * model_bytes + kBuilder,
          .device_bytes = 2 * model_bytes + workspace_mib * kMiB};
}

FreeSpace free_space(const std::string& folder, const std::string& meminfo) {
  FreeSpace free;
  std::string there = folder;
  struct statvfs info = {};
  while (::statvfs(there.empty() ? "/" : there.c_str(), &info) != 0 && !there.empty()) {
    const std::size_t slash = there.rfind('/');
    there.resize(slash == std::string::npos ? 0 : slash);
  }
  if (info.f_frsize != 0) free.disk_bytes = std::uint64_t{info.f_bavail} * info.f_frsize;
  std::ifstream file(meminfo);
  for (std::string line; std::getline(file, line);) {
    constexpr std::string_view kName = "MemAvailable:";
    if (!line.starts_with(kName)) continue;
    const std::size_t digits = line.find_first_of("0123456789");
    if (digits == std::string::npos) break;
    std::uint64_t kib = 0;
    if (std::from_chars(line.data() + digits, line.data() + line.size(), kib).ec == std::errc()) {
      free.host_bytes = kib * 1024;
    }
    break;
  }
  return free;
}

Status check_space(const BuildNeeds& needs, const FreeSpace& free, const std::string& folder) {
  const auto lacks = [](std::uint64_t needed, const std::optional<std::uint64_t>& there) {
    return there && *there < needed;
  };
  const auto text = [](std::uint64_t needed, const std::optional<std::uint64_t>& there) {
    return in_mib(needed) + " are needed, " + in_mib(*there) + " are free";
  };
  std::string lacking;
  if (lacks(needs.disk_bytes, free.disk_bytes)) {
    lacking = "on the disk of " + folder + " " + text(needs.disk_bytes, free.disk_bytes);
  } else if (lacks(needs.host_bytes, free.host_bytes)) {
    lacking = "in memory " + text(needs.host_bytes, free.host_bytes);
  } else if (lacks(needs.device_bytes, free.device_bytes)) {
    lacking = "in the GPU's memory " + text(needs.device_bytes, free.device_bytes) +
              " (the bundle's workspace_mib is part of it)";
  }
  if (lacking.empty()) return {};
  return Status(Code::kResourceExhausted, "a plan can't be built here: " + lacking);
}

}  // namespace edgebuild::tensorrt
