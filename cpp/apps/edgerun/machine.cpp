#include "machine.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace edgerun {
namespace {

// A file of /proc or /sys, whole; empty if it can't be read.
std::string read_text(const char* path) {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = ::read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, static_cast<std::size_t>(got));
  ::close(fd);
  return text;
}

// What stands after "NAME<blanks>:<blanks>" on the first line that begins with NAME.
std::string field(const std::string& text, std::string_view name) {
  for (std::size_t line = 0; line < text.size();) {
    std::size_t end = text.find('\n', line);
    if (end == std::string::npos) end = text.size();
    const std::string_view content(text.data() + line, end - line);
    if (content.starts_with(name)) {
      const std::size_t colon = content.find(':');
      if (colon != std::string_view::npos && content.find_first_not_of(" \t", name.size()) == colon) {
        const std::size_t start = content.find_first_not_of(" \t", colon + 1);
        if (start != std::string_view::npos) return std::string(content.substr(start));
      }
    }
    line = end + 1;
  }
  return {};
}

}  // namespace

CpuClock read_cpu_clock() {
  CpuClock clock;
  clock.governor = read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  while (!clock.governor.empty() && clock.governor.back() == '\n') clock.governor.pop_back();
  if (clock.governor.empty()) clock.governor = "unknown";
  const std::string khz = read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq");
  if (!khz.empty()) {
    const unsigned long long value = std::strtoull(khz.c_str(), nullptr, 10);
    if (value > 0) clock.frequency_hz = value * 1000;
    return clock;
  }
  const double mhz = std::strtod(field(read_text("/proc/cpuinfo"), "cpu MHz").c_str(), nullptr);
  if (mhz > 0.0) clock.frequency_hz = static_cast<std::uint64_t>(mhz * 1e6);
  return clock;
}

unsigned cpu_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<unsigned>(CPU_COUNT(&set));
  const long online = ::sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? static_cast<unsigned>(online) : 1;
}

std::optional<double> load_average() {
  const std::string text = read_text("/proc/loadavg");
  if (text.empty()) return std::nullopt;
  return std::strtod(text.c_str(), nullptr);
}

std::uint64_t thread_count() {
  return std::strtoull(field(read_text("/proc/self/status"), "Threads").c_str(), nullptr, 10);
}

std::uint64_t peak_rss_bytes() {
  // Not ru_maxrss at once: it survives exec, so it may be that of the program that started this one.
  const std::uint64_t kib = std::strtoull(field(read_text("/proc/self/status"), "VmHWM").c_str(), nullptr, 10);
  if (kib != 0) return kib * 1024;
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace edgerun
