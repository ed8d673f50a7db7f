// What this process and this machine are doing, for reports.

#ifndef EDGEBUILD_APPS_EDGERUN_MACHINE_HPP_
#define EDGEBUILD_APPS_EDGERUN_MACHINE_HPP_

#include <cstdint>
#include <optional>
#include <string>

namespace edgerun {

/// State of the processor's clock. Other cores may differ; this is that of the first one.
struct CpuClock {
  std::string governor;  ///< "unknown" if the system does not say.
  std::optional<std::uint64_t> frequency_hz;
};

[[nodiscard]] CpuClock read_cpu_clock();

/// Processors that this process may use.
[[nodiscard]] unsigned cpu_count();

/// Programs that ran or waited to, on average over the last minute; nothing if the system does not say.
[[nodiscard]] std::optional<double> load_average();

/// Threads of this process at the moment; 0 if the system does not say.
[[nodiscard]] std::uint64_t thread_count();

/// Largest resident memory of this process so far, in bytes.
[[nodiscard]] std::uint64_t peak_rss_bytes();

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_MACHINE_HPP_
