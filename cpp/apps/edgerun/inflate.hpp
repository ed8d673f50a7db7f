// Deflate (RFC 1951), decompression only.

#ifndef EDGEBUILD_APPS_EDGERUN_INFLATE_HPP_
#define EDGEBUILD_APPS_EDGERUN_INFLATE_HPP_

#include <cstddef>
#include <span>

namespace edgerun {

/// Most bytes, packed or unpacked, that `inflate` takes.
inline constexpr std::size_t kInflateLimit = 0x7FFFFFFF;

/// @return Whether `packed` is a valid stream that fills `unpacked` exactly. Neither may exceed kInflateLimit.
[[nodiscard]] bool inflate(std::span<const std::byte> packed, std::span<std::byte> unpacked) noexcept;

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_INFLATE_HPP_
