// What this machine has, and what a variant misses on it.

#ifndef EDGEBUILD_SRC_RUNNER_REQUIREMENTS_HPP_
#define EDGEBUILD_SRC_RUNNER_REQUIREMENTS_HPP_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "bundle/manifest.hpp"
#include "runner/cpu_features.hpp"

namespace edgebuild::runner {

struct Machine {
  std::string arch;                    ///< Of this process, in the manifest's words.
  std::set<std::string> cpu_features;  ///< Those that every core has; see cpu_features.hpp.
  std::string cpu_model;               ///< As the system names it, with ARM's part numbers; "unknown" if it does not.
  unsigned processors = 0;             ///< That this process may use.
  std::optional<std::string> glibc;    ///< E.g. "2.36"; nothing with another C library.
  std::optional<std::uint64_t> free_memory;  ///< Bytes that can be had now, within the control group's limits.
  std::optional<std::string> compute_capability;
};

/// The manifest's name of the architecture that this process runs as; "unknown" for none that edgebuild supports.
[[nodiscard]] const char* process_arch() noexcept;

/// Looks at this machine. `root` stands before /proc and /sys, and `words` are what the kernel says (for tests).
[[nodiscard]] Machine probe_machine(const std::filesystem::path& root = "/", HardwareWords words = hardware_words());

/// What `machine` lacks, in words; nothing if it has everything.
[[nodiscard]] std::optional<std::string> missing_requirement(const bundle::Requirements& needed,
                                                             const Machine& machine);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_REQUIREMENTS_HPP_
