// One function a class of the module.

#ifndef EDGEBUILD_BINDINGS_REGISTER_HPP_
#define EDGEBUILD_BINDINGS_REGISTER_HPP_

#include <pybind11/pybind11.h>

namespace edgebuild::python {

void register_preprocess(pybind11::module_& module);
void register_runner(pybind11::module_& module);
void register_statistics(pybind11::module_& module);

}  // namespace edgebuild::python

#endif  // EDGEBUILD_BINDINGS_REGISTER_HPP_
