// NumPy dtypes and ours.

#ifndef EDGEBUILD_BINDINGS_DTYPES_HPP_
#define EDGEBUILD_BINDINGS_DTYPES_HPP_

#include <pybind11/numpy.h>

#include "edgebuild/signature.hpp"

namespace edgebuild::python {

/// Fills the tables of NumPy's own types. Once, when the module is made.
void initialise_dtypes();

/// Ours for a NumPy type number; EB_DTYPE_UNDEFINED if there is none. Objects and text are EB_STRING.
/// Knows the types of ml_dtypes if that package is installed.
[[nodiscard]] DType dtype_of(int type_number);

/// NumPy's for ours: that of ml_dtypes if it is installed, else the raw integer that carries it. Borrowed.
[[nodiscard]] pybind11::handle numpy_dtype(DType dtype);

/// The raw integer type in which a type that NumPy lacks may travel; EB_DTYPE_UNDEFINED if NumPy has it.
[[nodiscard]] DType carrier_of(DType dtype) noexcept;

/// Whether several elements share a byte in our tensors (in NumPy each has its own).
[[nodiscard]] inline bool is_sub_byte(DType dtype) noexcept {
  const unsigned bits = dtype_bits(dtype);
  return bits != 0 && bits < 8;
}

}  // namespace edgebuild::python

#endif  // EDGEBUILD_BINDINGS_DTYPES_HPP_
