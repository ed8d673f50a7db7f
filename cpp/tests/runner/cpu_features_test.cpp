#include "runner/cpu_features.hpp"

#include <doctest/doctest.h>

#include <initializer_list>

#include "runner/requirements.hpp"
#include "support.hpp"

namespace {

using edgebuild::runner::cpu_features;
using edgebuild::runner::hardware_feature_names;
using edgebuild::runner::HardwareWords;
using edgebuild::runner::read_cpuinfo_features;
using edgebuild::runner::riscv_extensions;
using edgebuild::testing::TemporaryFolder;
using edgebuild::testing::write_file;

using Features = std::set<std::string>;

// Bits of the kernel's asm/hwcap.h, counted by hand there: what a 64-bit kernel tells a 32-bit program on a Cortex-A72.
constexpr std::uint64_t kHalf = 1U << 1U, kThumb = 1U << 2U, kFastMult = 1U << 4U, kVfp = 1U << 6U, kEdsp = 1U << 7U;
constexpr std::uint64_t kNeon = 1U << 12U, kVfpv3 = 1U << 13U, kTls = 1U << 15U, kVfpv4 = 1U << 16U;
constexpr std::uint64_t kIdiva = 1U << 17U, kIdivt = 1U << 18U, kLpae = 1U << 20U;
constexpr HardwareWords kPi4In32Bits{
    kHalf | kThumb | kFastMult | kVfp | kEdsp | kNeon | kVfpv3 | kTls | kVfpv4 | kIdiva | kIdivt | kLpae, 1U << 4U};

bool has_all(const Features& features, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (!features.contains(name)) return false;
  }
  return true;
}

TEST_CASE("a 32-bit program on a 64-bit ARM kernel has the features of raspberrypi2, whatever cpuinfo lists") {
  const Features arm64_words{"fp", "asimd", "evtstrm", "crc32", "cpuid", "asimddp", "i8mm"};
  const Features features = cpu_features("armv7l", kPi4In32Bits, arm64_words);
  CHECK(has_all(features, {"edsp", "half", "idiva", "idivt", "neon", "thumb", "vfp", "vfpv3", "vfpv4"}));
  CHECK(features.contains("crc32"));          // of the second word
  CHECK_FALSE(features.contains("asimddp"));  // in both lists of names; here it is arm64's
  CHECK_FALSE(features.contains("i8mm"));
  CHECK_FALSE(features.contains("asimd"));
  CHECK_FALSE(features.contains("vfpd32"));
}

TEST_CASE("bits of arm64 are named as in cpuinfo") {
  // A Cortex-A76: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp.
  const HardwareWords a76{0b1'0001'1001'1111'1111'1011, 0};
  CHECK(hardware_feature_names("aarch64", a76) == Features{"aes", "asimd", "asimddp", "asimdhp", "asimdrdm", "atomics",
                                                           "cpuid", "crc32", "dcpop", "fp", "fphp", "lrcpc", "pmull",
                                                           "sha1", "sha2"});
  CHECK(hardware_feature_names("aarch64", {0, 1U << 13U | 1U << 14U}) == Features{"bf16", "i8mm"});
  CHECK(hardware_feature_names("aarch64", {std::uint64_t{1} << 32U, std::uint64_t{1} << 63U}) ==
        Features{"gcs", "poe"});
  CHECK(hardware_feature_names("armv7l", {1U << 27U, 1U}) == Features{"aes", "i8mm"});
  CHECK(hardware_feature_names("x86_64", {~std::uint64_t{0}, ~std::uint64_t{0}}).empty());
}

TEST_CASE("no bit of a word is named twice or goes without a name") {
  for (const char* arch : {"aarch64", "armv7l"}) {
    std::size_t named = 0;
    for (unsigned bit = 0; bit < 64; ++bit) {
      named += hardware_feature_names(arch, {std::uint64_t{1} << bit, 0}).size();
      named += hardware_feature_names(arch, {0, std::uint64_t{1} << bit}).size();
    }
    CHECK(named == hardware_feature_names(arch, {~std::uint64_t{0}, ~std::uint64_t{0}}).size());
    CHECK(named == (std::string(arch) == "aarch64" ? 112 : 35));
  }
}

TEST_CASE("cpuinfo adds names that no list has, and serves alone where the kernel gives no words") {
  CHECK(cpu_features("aarch64", {1, 0}, {"asimd", "brandnew"}) == Features{"brandnew", "fp"});
  CHECK(cpu_features("aarch64", {}, {"asimd", "fp"}) == Features{"asimd", "fp"});
  CHECK(cpu_features("x86_64", {0x178bfbff, 2}, {"avx2", "sse4_2"}) == Features{"avx2", "sse4_2"});
}

TEST_CASE("a RISC-V ISA string is its letters and its extensions") {
  CHECK(riscv_extensions("rv64imafdcv_zba_zbb_zicsr") ==
        Features{"a", "c", "d", "f", "i", "m", "v", "zba", "zbb", "zicsr"});
  CHECK(riscv_extensions("rv64gc") == Features{"a", "c", "d", "f", "i", "m"});
  CHECK(riscv_extensions("RV64GC_Zba_Xthead") == Features{"a", "c", "d", "f", "i", "m", "xthead", "zba"});
  CHECK(riscv_extensions("rv32imac") == Features{"a", "c", "i", "m"});
  CHECK(riscv_extensions("rv64imafdch_sstc_zicbom_zvl128b_sv39") ==
        Features{"a", "c", "d", "f", "h", "i", "m", "sstc", "sv39", "zicbom", "zvl128b"});
  CHECK(riscv_extensions("rv64i2p1m2p0_a2_zicsr2p0_zvl32b1p0") == Features{"a", "i", "m", "zicsr", "zvl32b"});
  CHECK(riscv_extensions("rv64imaczba") == Features{"a", "c", "i", "m", "zba"});
  CHECK(riscv_extensions("rv64i__zba_") == Features{"i", "zba"});
  for (const char* wrong : {"", "rv", "rv64", "rvimac", "imac", "x86-64"}) CHECK(riscv_extensions(wrong).empty());
  CHECK(hardware_feature_names("riscv64", {1U | 1U << 2U | 1U << 8U | 1U << 21U, 0}) == Features{"a", "c", "i", "v"});
}

TEST_CASE("features are those that every core has") {
  const TemporaryFolder root;
  const auto features = [&](const char* cpuinfo) {
    write_file(root.path() / "proc/cpuinfo", cpuinfo);
    return read_cpuinfo_features(root.path());
  };
  CHECK(features("processor\t: 0\nFeatures\t: fp asimd aes\n\nprocessor\t: 1\nFeatures\t: fp asimd\n") ==
        Features{"asimd", "fp"});
  CHECK(features("hart\t: 0\nisa\t\t: rv64imafdcv_zba_zbb\nmmu\t: sv39\n\nhart\t: 1\nisa\t\t: rv64imafdc_zba\n") ==
        Features{"a", "c", "d", "f", "i", "m", "zba"});
  CHECK(features("isa\t: \nflags\n: x\n").empty());
}

}  // namespace
