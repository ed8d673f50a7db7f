// Images as NumPy arrays.

#ifndef EDGEBUILD_BINDINGS_IMAGES_HPP_
#define EDGEBUILD_BINDINGS_IMAGES_HPP_

#include <pybind11/numpy.h>

#include <functional>

#include "edgebuild/runner.hpp"

namespace edgebuild::python {

/// What `make` gives for images, which are uint8; `make` runs without the GIL. Raises the errors of edgebuild.errors.
[[nodiscard]] pybind11::array array_of_images(const pybind11::array& images,
                                              const std::function<Result<Value>(const Value&)>& make);

}  // namespace edgebuild::python

#endif  // EDGEBUILD_BINDINGS_IMAGES_HPP_
