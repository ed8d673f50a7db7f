// Types of 4 and 2 bits: packed as in a tensor, or one element a byte, in its lowest bits, as NumPy and ml_dtypes have
// them.

#ifndef EDGEBUILD_SRC_PACKING_HPP_
#define EDGEBUILD_SRC_PACKING_HPP_

#include <cstddef>
#include <span>
#include <vector>

namespace edgebuild {

/// @param elements  One a byte; higher bits (a sign) are ignored.
/// @param bits      2 or 4.
[[nodiscard]] std::vector<std::byte> pack(std::span<const std::byte> elements, unsigned bits);

/// @param target  One element a byte, its higher bits 0.
void unpack(const std::byte* packed, unsigned bits, std::span<std::byte> target);

}  // namespace edgebuild

#endif  // EDGEBUILD_SRC_PACKING_HPP_
