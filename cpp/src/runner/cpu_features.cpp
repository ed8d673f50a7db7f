#include "runner/cpu_features.hpp"

#include <sys/auxv.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <span>
#include <sstream>

namespace edgebuild::runner {
namespace {

// Bit by bit, from bit 0 on. The bits are the kernel's ABI (asm/hwcap.h of each architecture); the names are those that
// it prints in /proc/cpuinfo.

constexpr std::array<std::string_view, 48> kArm64{
    "fp",         "asimd",  "evtstrm", "aes",         "pmull",    "sha1",      "sha2",       "crc32",
    "atomics",    "fphp",   "asimdhp", "cpuid",       "asimdrdm", "jscvt",     "fcma",       "lrcpc",
    "dcpop",      "sha3",   "sm3",     "sm4",         "asimddp",  "sha512",    "sve",        "asimdfhm",
    "dit",        "uscat",  "ilrcpc",  "flagm",       "ssbs",     "sb",        "paca",       "pacg",
    "gcs",        "cmpbr",  "fprcvt",  "f8mm8",       "f8mm4",    "svef16mm",  "sveeltperm", "sveaes2",
    "svebfscale", "sve2p2", "sme2p2",  "smesbitperm", "smeaes",   "smesfexpa", "smestmop",   "smesmop4"};

constexpr std::array<std::string_view, 64> kArm64Second{
    "dcpodp",     "sve2",      "sveaes",    "svepmull",  "svebitperm", "svesha3",   "svesm4",    "flagm2",
    "frint",      "svei8mm",   "svef32mm",  "svef64mm",  "svebf16",    "i8mm",      "bf16",      "dgh",
    "rng",        "bti",       "mte",       "ecv",       "afp",        "rpres",     "mte3",      "sme",
    "smei16i64",  "smef64f64", "smei8i32",  "smef16f32", "smeb16f32",  "smef32f32", "smefa64",   "wfxt",
    "ebf16",      "sveebf16",  "cssc",      "rprfm",     "sve2p1",     "sme2",      "sme2p1",    "smei16i32",
    "smebi32i32", "smeb16b16", "smef16f16", "mops",      "hbc",        "sveb16b16", "lrcpc3",    "lse128",
    "fpmr",       "lut",       "faminmax",  "f8cvt",     "f8fma",      "f8dp4",     "f8dp2",     "f8e4m3",
    "f8e5m2",     "smelutv2",  "smef8f16",  "smef8f32",  "smesf8fma",  "smesf8dp4", "smesf8dp2", "poe"};

constexpr std::array<std::string_view, 28> kArm{
    "swp",    "half",    "thumb", "26bit",   "fastmult", "fpa",      "vfp",       "edsp",  "java",  "iwmmxt",
    "crunch", "thumbee", "neon",  "vfpv3",   "vfpv3d16", "tls",      "vfpv4",     "idiva", "idivt", "vfpd32",
    "lpae",   "evtstrm", "fphp",  "asimdhp", "asimddp",  "asimdfhm", "asimdbf16", "i8mm"};

constexpr std::array<std::string_view, 7> kArmSecond{"aes", "pmull", "sha1", "sha2", "crc32", "sb", "ssbs"};

struct Names {
  std::span<const std::string_view> first;
  std::span<const std::string_view> second;
};

constexpr Names kArm64Names{kArm64, kArm64Second};
constexpr Names kArmNames{kArm, kArmSecond};

void add_set_bits(std::span<const std::string_view> names, std::uint64_t word, std::set<std::string>* out) {
  for (std::size_t bit = 0; bit < names.size(); ++bit) {
    if ((word >> bit & 1U) != 0) out->emplace(names[bit]);
  }
}

bool lists(const Names& names, std::string_view name) {
  const auto in = [&](std::span<const std::string_view> list) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  return in(names.first) || in(names.second);
}

}  // namespace

HardwareWords hardware_words() noexcept {
#ifdef AT_HWCAP2
  constexpr unsigned long kSecond = AT_HWCAP2;
#else
  constexpr unsigned long kSecond = 26;
#endif
  return {::getauxval(AT_HWCAP), ::getauxval(kSecond)};
}

std::set<std::string> hardware_feature_names(std::string_view arch, HardwareWords words) {
  std::set<std::string> features;
  if (arch == "aarch64" || arch == "armv7l") {
    const Names& names = arch == "aarch64" ? kArm64Names : kArmNames;
    add_set_bits(names.first, words.hwcap, &features);
    add_set_bits(names.second, words.hwcap2, &features);
  }
  return features;
}

std::set<std::string> read_cpuinfo_features(const std::filesystem::path& root) {
  std::ifstream stream(root / "proc/cpuinfo");
  std::set<std::string> common;
  bool first = true;
  std::string previous;
  std::string line;
  while (std::getline(stream, line)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string_view key(line.data(), line.find_last_not_of(" \t", colon == 0 ? 0 : colon - 1) + 1);
    if (key != "flags" && key != "Features" && key != "isa") continue;
    if (!first && line == previous) continue;
    previous = line;
    std::istringstream words(line.substr(colon + 1));
    std::set<std::string> features{std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
    if (first) {
      common = std::move(features);
      first = false;
    } else {
      std::erase_if(common, [&](const std::string& feature) { return !features.contains(feature); });
    }
  }
  return common;
}

std::set<std::string> cpu_features(std::string_view arch, HardwareWords words, std::set<std::string> cpuinfo) {
  std::set<std::string> features = hardware_feature_names(arch, words);
  if (features.empty()) return cpuinfo;
  const bool arm = arch == "aarch64" || arch == "armv7l";
  if (arm) std::erase_if(cpuinfo, [](const auto& name) { return lists(kArmNames, name) || lists(kArm64Names, name); });
  features.merge(cpuinfo);
  return features;
}

}  // namespace edgebuild::runner
