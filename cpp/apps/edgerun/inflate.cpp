#include "inflate.hpp"

// Only the zlib decoder of stb_image is used; the rest is static and dropped by the compiler.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_NO_SIMD
#include <stb/stb_image.h>

namespace edgerun {

bool inflate(std::span<const std::byte> packed, std::span<std::byte> unpacked) noexcept {
  if (packed.size() > kInflateLimit || unpacked.size() > kInflateLimit) return false;
  char none = 0;  // the decoder does pointer arithmetic even where there is nothing to write
  char* target = unpacked.empty() ? &none : reinterpret_cast<char*>(unpacked.data());
  const int written =
      stbi_zlib_decode_noheader_buffer(target, static_cast<int>(unpacked.size()),
                                       reinterpret_cast<const char*>(packed.data()), static_cast<int>(packed.size()));
  return written >= 0 && static_cast<std::size_t>(written) == unpacked.size();
}

}  // namespace edgerun
