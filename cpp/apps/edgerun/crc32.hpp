// CRC-32 as in zip files (polynomial 0xEDB88320, reflected).

#ifndef EDGEBUILD_APPS_EDGERUN_CRC32_HPP_
#define EDGEBUILD_APPS_EDGERUN_CRC32_HPP_

#include <cstddef>
#include <cstdint>
#include <span>

namespace edgerun {

/// @param crc  The result for the bytes before these; 0 at the start.
[[nodiscard]] std::uint32_t crc32(std::span<const std::byte> data, std::uint32_t crc = 0) noexcept;

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_CRC32_HPP_
