// SHA-256 with the cryptographic extension of ARMv8 (Arm ARM, SHA256H, SHA256H2, SHA256SU0, SHA256SU1). Compiled for
// the baseline; only the function below is for processors that have the instructions.

#include "bundle/sha256.hpp"

#if defined(__aarch64__) && defined(__linux__)

#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#if defined(__clang__)
#define EDGEBUILD_ARM_SHA2 __attribute__((target("sha2")))
#else
#define EDGEBUILD_ARM_SHA2 __attribute__((target("+crypto")))
#endif

namespace edgebuild::bundle::internal {

bool sha256_has_armv8() noexcept { return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0; }

EDGEBUILD_ARM_SHA2 void sha256_compress_armv8(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count) {
  uint32x4_t abcd = vld1q_u32(state);
  uint32x4_t efgh = vld1q_u32(state + 4);
  for (; count > 0; --count, blocks += 64) {
    const uint32x4_t abcd_before = abcd;
    const uint32x4_t efgh_before = efgh;
    uint32x4_t w[4];  // the schedule's last 16 words, as a ring
    for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * i)));
#pragma GCC unroll 16
    for (int group = 0; group < 16; ++group) {  // four rounds each
      if (group >= 4) {
        w[group % 4] =
            vsha256su1q_u32(vsha256su0q_u32(w[group % 4], w[(group + 1) % 4]), w[(group + 2) % 4], w[(group + 3) % 4]);
      }
      const uint32x4_t wk = vaddq_u32(w[group % 4], vld1q_u32(kSha256RoundConstants + 4 * group));
      const uint32x4_t abcd_now = abcd;
      abcd = vsha256hq_u32(abcd, efgh, wk);
      efgh = vsha256h2q_u32(efgh, abcd_now, wk);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace edgebuild::bundle::internal

#else

namespace edgebuild::bundle::internal {

bool sha256_has_armv8() noexcept { return false; }
void sha256_compress_armv8(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count) {
  sha256_compress_portable(state, blocks, count);
}

}  // namespace edgebuild::bundle::internal

#endif
