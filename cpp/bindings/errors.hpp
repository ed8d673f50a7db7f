// Status -> the exceptions of edgebuild.errors.

#ifndef EDGEBUILD_BINDINGS_ERRORS_HPP_
#define EDGEBUILD_BINDINGS_ERRORS_HPP_

#include "edgebuild/status.hpp"

namespace edgebuild::python {

/// Throws pybind11::error_already_set holding the exception of ERRORS_BY_EXIT_CODE. Needs the GIL.
[[noreturn]] void raise(const Status& status);

inline void raise_if_error(const Status& status) {
  if (!status.ok()) raise(status);
}

}  // namespace edgebuild::python

#endif  // EDGEBUILD_BINDINGS_ERRORS_HPP_
