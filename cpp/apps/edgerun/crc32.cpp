#include "crc32.hpp"

#include <array>
#include <cstring>

namespace edgerun {
namespace {

// tables[k][b]: the effect of byte b followed by k zero bytes; eight of them take eight bytes a step.
constexpr std::array<std::array<std::uint32_t, 256>, 8> make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1U) != 0 ? crc >> 1U ^ 0xEDB88320U : crc >> 1U;
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8U ^ tables[0][before & 0xFFU];
    }
  }
  return tables;
}

constexpr auto kTables = make_tables();

}  // namespace

std::uint32_t crc32(std::span<const std::byte> data, std::uint32_t crc) noexcept {
  crc = ~crc;
  const std::byte* p = data.data();
  std::size_t left = data.size();
  for (; left >= 8; p += 8, left -= 8) {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + 4, 4);
    low ^= crc;
    crc = kTables[7][low & 0xFFU] ^ kTables[6][low >> 8U & 0xFFU] ^ kTables[5][low >> 16U & 0xFFU] ^
          kTables[4][low >> 24U] ^ kTables[3][high & 0xFFU] ^ kTables[2][high >> 8U & 0xFFU] ^
          kTables[1][high >> 16U & 0xFFU] ^ kTables[0][high >> 24U];
  }
  for (; left > 0; ++p, --left) crc = crc >> 8U ^ kTables[0][(crc ^ static_cast<std::uint32_t>(*p)) & 0xFFU];
  return ~crc;
}

}  // namespace edgerun
