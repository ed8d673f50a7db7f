#include "packing.hpp"

namespace edgebuild {

std::vector<std::byte> pack(std::span<const std::byte> elements, unsigned bits) {
  const std::size_t per_byte = 8 / bits;
  const unsigned mask = (1U << bits) - 1U;
  std::vector<std::byte> packed((elements.size() + per_byte - 1) / per_byte);
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const unsigned element = static_cast<unsigned>(elements[i]) & mask;
    packed[i / per_byte] |= static_cast<std::byte>(element << (i % per_byte * bits));
  }
  return packed;
}

void unpack(const std::byte* packed, unsigned bits, std::span<std::byte> target) {
  const std::size_t per_byte = 8 / bits;
  const unsigned mask = (1U << bits) - 1U;
  for (std::size_t i = 0; i < target.size(); ++i) {
    target[i] = static_cast<std::byte>(static_cast<unsigned>(packed[i / per_byte]) >> (i % per_byte * bits) & mask);
  }
}

}  // namespace edgebuild
