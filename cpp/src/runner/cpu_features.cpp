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

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

/// Cuts a version such as "2" or "2p1" off the front.
void skip_version(std::string_view* text) {
  const auto skip_digits = [&] {
    while (!text->empty() && is_digit(text->front())) text->remove_prefix(1);
  };
  if (text->empty() || !is_digit(text->front())) return;
  skip_digits();
  if (text->size() < 2 || text->front() != 'p' || !is_digit((*text)[1])) return;
  text->remove_prefix(1);
  skip_digits();
}

/// The name of a multi-letter extension without the version behind it. Digits alone may be part of a name (sv39), so
/// only "NUMBERpNUMBER" is a version.
std::string without_version(std::string_view name) {
  std::size_t end = name.size();
  while (end > 0 && is_digit(name[end - 1])) --end;
  if (end == name.size() || end < 2 || name[end - 1] != 'p' || !is_digit(name[end - 2])) return std::string(name);
  --end;
  while (end > 0 && is_digit(name[end - 1])) --end;
  return std::string(name.substr(0, end));
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
  if (arch == "riscv64") {
    for (unsigned letter = 0; letter < 26; ++letter) {
      if ((words.hwcap >> letter & 1U) != 0) features.emplace(1, static_cast<char>('a' + letter));
    }
  } else if (arch == "aarch64" || arch == "armv7l") {
    const Names& names = arch == "aarch64" ? kArm64Names : kArmNames;
    add_set_bits(names.first, words.hwcap, &features);
    add_set_bits(names.second, words.hwcap2, &features);
  }
  return features;
}

std::set<std::string> riscv_extensions(std::string_view isa) {
  std::string text(isa);
  std::transform(text.begin(), text.end(), text.begin(), lower);
  std::string_view rest = text;
  if (!rest.starts_with("rv")) return {};
  rest.remove_prefix(2);
  const std::size_t width = std::min(rest.find_first_not_of("0123456789"), rest.size());
  if (width == 0) return {};
  rest.remove_prefix(width);
  std::set<std::string> extensions;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('_'), rest.size());
    std::string_view word = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    while (!word.empty()) {
      const char letter = word.front();
      if (letter < 'a' || letter > 'z') {
        word.remove_prefix(1);
      } else if ((letter == 's' || letter == 'x' || letter == 'z') && word.size() > 1) {  // a longer name
        extensions.insert(without_version(word));
        word = {};
      } else {
        if (letter == 'g') {
          extensions.insert({"i", "m", "a", "f", "d"});
        } else {
          extensions.emplace(1, letter);
        }
        word.remove_prefix(1);
        skip_version(&word);
      }
    }
  }
  return extensions;
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
    if (key == "isa") features = features.empty() ? features : riscv_extensions(*features.begin());
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
