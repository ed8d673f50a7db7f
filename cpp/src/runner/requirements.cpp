#include "runner/requirements.hpp"

#if defined(__has_include)
#if __has_include(<gnu/libc-version.h>)
#include <gnu/libc-version.h>
#define EDGEBUILD_HAS_GLIBC 1
#endif
#endif

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <string_view>
#include <vector>

namespace edgebuild::runner {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

std::optional<std::uint64_t> parse_number(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

std::optional<std::uint64_t> read_number(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::string line;
  if (!std::getline(stream, line)) return std::nullopt;
  return parse_number(line);
}

/// Value of a "name value" or "name: value" line.
std::optional<std::uint64_t> read_field(const std::filesystem::path& file, std::string_view name) {
  std::ifstream stream(file);
  std::string line;
  while (std::getline(stream, line)) {
    if (!line.starts_with(name)) continue;
    const std::size_t digit = line.find_first_of("0123456789", name.size());
    if (digit != std::string::npos) return parse_number(std::string_view(line).substr(digit));
  }
  return std::nullopt;
}

/// The processor's name. ARM kernels give each core's maker and part instead, or besides a name that many share.
std::string read_cpu_model(const std::filesystem::path& root) {
  std::ifstream stream(root / "proc/cpuinfo");
  std::map<std::string, std::string, std::less<>> first;
  std::set<std::string> parts;
  std::string implementer;
  std::string line;
  while (std::getline(stream, line)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || colon == 0) continue;
    const std::string key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const std::size_t start = line.find_first_not_of(" \t", colon + 1);
    const std::string value = start == std::string::npos ? std::string() : line.substr(start);
    if (key == "CPU implementer") implementer = value;
    if (key == "CPU part") parts.insert(implementer + ":" + value);
    if (!value.empty()) first.try_emplace(key, value);
  }
  std::string model;
  for (const char* key : {"model name", "Model", "Hardware", "uarch"}) {
    const auto found = first.find(key);
    if (model.empty() && found != first.end()) model = found->second;
  }
  for (const std::string& part : parts) model += (model.empty() ? "" : " ") + part;
  return model.empty() ? "unknown" : model;
}

unsigned usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<unsigned>(CPU_COUNT(&set));
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<unsigned>(online) : 1;
}

/// Bytes left below the limits of this process's control groups; file caches that can be dropped count as free.
std::optional<std::uint64_t> read_group_memory(const std::filesystem::path& root) {
  std::ifstream stream(root / "proc/self/cgroup");
  std::optional<std::uint64_t> least;
  const auto take = [&](std::optional<std::uint64_t> limit, std::optional<std::uint64_t> used,
                        std::optional<std::uint64_t> cache) {
    if (!limit || !used) return;
    const std::uint64_t held = *used - std::min(*used, cache.value_or(0));
    const std::uint64_t left = *limit - std::min(*limit, held);
    least = std::min(left, least.value_or(left));
  };
  std::string line;
  while (std::getline(stream, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    const std::filesystem::path mount = root / (unified ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    std::filesystem::path group = std::filesystem::path(line.substr(second + 1)).relative_path();
    while (true) {  // Limits of the group itself and of those above it.
      const std::filesystem::path folder = mount / group;
      if (unified) {
        take(read_number(folder / "memory.max"), read_number(folder / "memory.current"),
             read_field(folder / "memory.stat", "inactive_file "));
      } else {
        take(read_number(folder / "memory.limit_in_bytes"), read_number(folder / "memory.usage_in_bytes"),
             read_field(folder / "memory.stat", "total_inactive_file "));
      }
      if (group.empty()) break;
      group = group.parent_path();
    }
  }
  return least;
}

/// "2.36" as numbers, for comparing.
std::vector<std::uint64_t> version_numbers(std::string_view text) {
  std::vector<std::uint64_t> numbers;
  while (!text.empty()) {
    const std::size_t dot = std::min(text.find('.'), text.size());
    numbers.push_back(parse_number(text.substr(0, dot)).value_or(0));
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  return numbers;
}

}  // namespace

const char* process_arch() noexcept {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#elif defined(__arm__)
  return "armv7l";
#elif defined(__riscv) && __riscv_xlen == 64
  return "riscv64";
#else
  return "unknown";
#endif
}

Machine probe_machine(const std::filesystem::path& root, HardwareWords words) {
  Machine machine;
  machine.arch = process_arch();
  machine.cpu_features = cpu_features(machine.arch, words, read_cpuinfo_features(root));
  machine.cpu_model = read_cpu_model(root);
  machine.processors = usable_processors();
#ifdef EDGEBUILD_HAS_GLIBC
  machine.glibc = gnu_get_libc_version();
#endif
  const std::optional<std::uint64_t> available = read_field(root / "proc/meminfo", "MemAvailable:");
  if (available) machine.free_memory = *available * 1024;
  const std::optional<std::uint64_t> group = read_group_memory(root);
  if (group) machine.free_memory = std::min(*group, machine.free_memory.value_or(*group));
  return machine;
}

std::optional<std::string> missing_requirement(const bundle::Requirements& needed, const Machine& machine) {
  std::string features;
  for (const std::string& feature : needed.cpu_features) {
    if (!machine.cpu_features.contains(feature)) features += (features.empty() ? "" : ", ") + feature;
  }
  if (!features.empty()) return "this CPU lacks " + features;
  if (needed.glibc && (!machine.glibc || version_numbers(*machine.glibc) < version_numbers(*needed.glibc))) {
    return "it needs glibc " + *needed.glibc + ", this machine has " + machine.glibc.value_or("another C library");
  }
  if (needed.memory_bytes && machine.free_memory && *machine.free_memory < *needed.memory_bytes) {
    return "it needs " + std::to_string((*needed.memory_bytes + kMiB - 1) / kMiB) + " MiB of memory, " +
           std::to_string(*machine.free_memory / kMiB) + " MiB are free";
  }
  if (needed.compute_capability && machine.compute_capability != needed.compute_capability) {
    return "it needs a CUDA device of compute capability " + *needed.compute_capability + ", " +
           (machine.compute_capability ? "this one has " + *machine.compute_capability : "there is no CUDA device");
  }
  return std::nullopt;
}

}  // namespace edgebuild::runner
