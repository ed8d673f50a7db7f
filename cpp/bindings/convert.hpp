// Values between Python and the runner. Everything here needs the GIL.

#ifndef EDGEBUILD_BINDINGS_CONVERT_HPP_
#define EDGEBUILD_BINDINGS_CONVERT_HPP_

#include <pybind11/numpy.h>

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "edgebuild/runner.hpp"

namespace edgebuild::python {

/// Values of one run and what their memory belongs to.
struct Inputs {
  std::vector<Value> values;
  std::vector<pybind11::object> owners;
  std::deque<std::vector<std::byte>> packed;
};

/// A value over a Python object. A C-contiguous, aligned NumPy array of the right dtype is not copied.
///
/// @param slow_path  `(object, dtype name, input name) -> ndarray` for what is no such array.
/// Raises SignatureError naming the input.
[[nodiscard]] Value value_from_python(pybind11::handle object, const TypeSpec& type, const std::string& name,
                                      pybind11::handle slow_path, Inputs& inputs);

/// The Python object that stands for an output: an array over the value's own memory (which then keeps the value and
/// the runner alive), a list, or None.
[[nodiscard]] pybind11::object python_from_value(Value value, const std::shared_ptr<Runner>& runner);

}  // namespace edgebuild::python

#endif  // EDGEBUILD_BINDINGS_CONVERT_HPP_
