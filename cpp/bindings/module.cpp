// edgebuild._runtime: the C++ runner for Python. edgebuild/runtime.py is its public face.

#include <pybind11/pybind11.h>

#include "dtypes.hpp"
#include "edgebuild/runner.hpp"
#include "register.hpp"

PYBIND11_MODULE(_runtime, module) {
  module.doc() = "The compiled part of edgebuild.runtime.";
  module.attr("__version__") = edgebuild::version();
  edgebuild::python::initialise_dtypes();
  edgebuild::python::register_preprocess(module);
  edgebuild::python::register_runner(module);
  edgebuild::python::register_statistics(module);
}
