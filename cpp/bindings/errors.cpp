#include "errors.hpp"

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace edgebuild::python {

void raise(const Status& status) {
  const py::module_ errors = py::module_::import("edgebuild.errors");
  const int code = exit_code(status.code());
  const py::object kind = errors.attr("ERRORS_BY_EXIT_CODE").attr("get")(code, errors.attr("EdgebuildError"));
  py::object error = kind(py::str(status.message()));
  PyErr_SetObject(kind.ptr(), error.ptr());
  throw py::error_already_set();
}

}  // namespace edgebuild::python
