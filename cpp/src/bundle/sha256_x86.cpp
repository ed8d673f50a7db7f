// SHA-256 with the SHA extensions of x86 (Intel SDM vol. 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2). The functions carry
// their target in an attribute, so that the file is compiled for the baseline like all others.

#include "bundle/sha256.hpp"

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>
#include <immintrin.h>

namespace edgebuild::bundle::internal {

bool sha256_has_shani() noexcept {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kSsse3 = 1u << 9, kSse41 = 1u << 19, kSha = 1u << 29;
  if ((ecx & kSsse3) == 0 || (ecx & kSse41) == 0) return false;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (ebx & kSha) != 0;
}

namespace {

// A _mm_loadu_si128 over any bytes.
__attribute__((target("sha,sse4.1,ssse3"))) inline __m128i load(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

}  // namespace

__attribute__((target("sha,sse4.1,ssse3"))) void sha256_compress_shani(std::uint32_t* state, const std::uint8_t* blocks,
                                                                       std::size_t count) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  // The instructions want the state as (A, B, E, F) and (C, D, G, H), high lane first.
  const __m128i dcba = load(state);
  const __m128i hgfe = load(state + 4);
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);

  for (; count > 0; --count, blocks += 64) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i w[4];  // the schedule's last 16 words, as a ring
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(load(blocks + 16 * i), big_endian);
#pragma GCC unroll 16
    for (int group = 0; group < 16; ++group) {  // four rounds each
      if (group >= 4) {
        const __m128i last = w[(group + 3) % 4];
        const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[group % 4], w[(group + 1) % 4]),
                                          _mm_alignr_epi8(last, w[(group + 2) % 4], 4));
        w[group % 4] = _mm_sha256msg2_epu32(sum, last);
      }
      const __m128i wk = _mm_add_epi32(w[group % 4], load(kSha256RoundConstants + 4 * group));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }

  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace edgebuild::bundle::internal

#else

namespace edgebuild::bundle::internal {

bool sha256_has_shani() noexcept { return false; }
void sha256_compress_shani(std::uint32_t* state, const std::uint8_t* blocks, std::size_t count) {
  sha256_compress_portable(state, blocks, count);
}

}  // namespace edgebuild::bundle::internal

#endif
