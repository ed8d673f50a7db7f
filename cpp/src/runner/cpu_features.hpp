// What a processor can do, in the words that targets and manifests use: those of the kernel's /proc/cpuinfo.

#ifndef EDGEBUILD_SRC_RUNNER_CPU_FEATURES_HPP_
#define EDGEBUILD_SRC_RUNNER_CPU_FEATURES_HPP_

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>

namespace edgebuild::runner {

/// The kernel's words about the processor, as this process sees it (AT_HWCAP and AT_HWCAP2); 0: it says nothing.
struct HardwareWords {
  std::uint64_t hwcap = 0;
  std::uint64_t hwcap2 = 0;
};

/// Those of this process.
[[nodiscard]] HardwareWords hardware_words() noexcept;

/// The names of the bits that are set.
///
/// @param arch  "aarch64", "armv7l", "riscv64" (the letters of its extensions); of any other there are no names.
[[nodiscard]] std::set<std::string> hardware_feature_names(std::string_view arch, HardwareWords words);

/// The extensions of a RISC-V ISA string such as "rv64imafdcv_zba_zicsr", in lower case and without versions; "g"
/// stands for i, m, a, f and d. Nothing if it is no ISA string.
[[nodiscard]] std::set<std::string> riscv_extensions(std::string_view isa);

/// Features of which /proc/cpuinfo says that every core has them: on a board with two kinds of cores a thread may land
/// on either. `root` stands before /proc.
[[nodiscard]] std::set<std::string> read_cpuinfo_features(const std::filesystem::path& root);

/// What a process of `arch` can rely on.
///
/// On ARM the words decide. /proc/cpuinfo can't: an arm64 kernel shows it in arm64's names to 32-bit programs too, and
/// some of those are also names of 32-bit features, which that CPU may lack. It only adds what neither architecture's
/// list knows, e.g. because the kernel is newer than this program, and serves alone where there are no words.
[[nodiscard]] std::set<std::string> cpu_features(std::string_view arch, HardwareWords words,
                                                 std::set<std::string> cpuinfo);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_CPU_FEATURES_HPP_
