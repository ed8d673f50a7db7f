// Between NumPy arrays, raw files and the values that a model takes and gives.
//
// Types that NumPy lacks travel as raw integers: bfloat16 as uint16, 8-bit floats as uint8, and types of 4 and 2 bits
// as uint8 with one element a byte, in its lowest bits. In raw files they are packed, as in a bundle's goldens.

#ifndef EDGEBUILD_APPS_EDGERUN_ARRAYS_HPP_
#define EDGEBUILD_APPS_EDGERUN_ARRAYS_HPP_

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "edgebuild/runner.hpp"
#include "npy.hpp"

namespace edgerun {

/// Memory that values refer to.
using Storage = std::vector<std::shared_ptr<const void>>;

/// How a tensor of `dtype` is written; "U0" for strings, whose width depends on the elements.
[[nodiscard]] NpyType npy_type(edgebuild::DType dtype) noexcept;

/// A value over `array`, which must outlive it unless it owns its data; then it moves into `storage`.
///
/// @param name  Of the input, for errors.
/// @return kInvalidArgument if the array's dtype does not stand for `dtype`.
[[nodiscard]] edgebuild::Result<edgebuild::Value> value_from_array(NpyArray array, edgebuild::DType dtype,
                                                                   const std::string& name, Storage& storage);

/// A value over a raw file's bytes, which must outlive it: row-major, little endian, packed; strings with 32-bit
/// lengths.
///
/// @return kInvalidArgument if `bytes` is not what dtype and shape need.
[[nodiscard]] edgebuild::Result<edgebuild::Value> value_from_raw(std::span<const std::byte> bytes,
                                                                 edgebuild::DType dtype,
                                                                 std::span<const std::int64_t> shape,
                                                                 const std::string& name);

/// The array that stands for a tensor. It refers to the tensor's memory where no conversion is needed.
[[nodiscard]] NpyArray array_from_tensor(const eb_value& tensor);

/// The bytes of a raw file that stands for a tensor; they refer to the tensor's memory or to `storage`.
[[nodiscard]] std::span<const std::byte> raw_from_tensor(const eb_value& tensor, std::vector<std::byte>& storage);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_ARRAYS_HPP_
