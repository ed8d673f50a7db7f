// NumPy's .npy format, versions 1 to 3. What is read is untrusted.

#ifndef EDGEBUILD_APPS_EDGERUN_NPY_HPP_
#define EDGEBUILD_APPS_EDGERUN_NPY_HPP_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/status.hpp"

namespace edgerun {

/// An element type as NumPy describes it.
struct NpyType {
  char kind = 'V';  ///< b bool, i u integers, f c floats, S bytes, U text in UCS-4, V opaque bytes.
  std::uint32_t item_size = 1;

  friend bool operator==(const NpyType&, const NpyType&) = default;
};

/// As NumPy writes it without its byte order, e.g. "f4", "U12".
[[nodiscard]] std::string to_string(const NpyType& type);

/// An array in C order and little endian, whatever the file had.
struct NpyArray {
  NpyType type;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> data;  ///< In the file's bytes if they could stay as they are, else in `storage`.
  std::vector<std::byte> storage;   ///< Moving the array keeps `data` valid; hence no copies.

  NpyArray() = default;
  NpyArray(NpyArray&&) = default;
  NpyArray& operator=(NpyArray&&) = default;
  NpyArray(const NpyArray&) = delete;
  NpyArray& operator=(const NpyArray&) = delete;
  ~NpyArray() = default;
};

/// Parses a whole .npy file.
///
/// Data that is little endian, in C order and aligned to its element is not copied: the array then refers to `file`.
///
/// @return kInvalidArgument, beginning with `where`: not a .npy file, an unknown version, a header that NumPy would not
///         write, a dtype that holds Python objects or fields, a size that is not what dtype and shape need, a bool
///         other than 0 and 1.
[[nodiscard]] edgebuild::Result<NpyArray> parse_npy(std::span<const std::byte> file, std::string_view where);

/// The header of a version 1 file with little-endian data in C order, byte for byte as NumPy writes it.
[[nodiscard]] std::string npy_header(const NpyType& type, std::span<const std::int64_t> shape);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_NPY_HPP_
