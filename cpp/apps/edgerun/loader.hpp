// Starting anew through the loader and C library that a bundle brings.

#ifndef EDGEBUILD_APPS_EDGERUN_LOADER_HPP_
#define EDGEBUILD_APPS_EDGERUN_LOADER_HPP_

#include <chrono>

#include "bundle/bundle.hpp"

namespace edgerun {

/// Keeps the program's arguments, with which it is started again, and finds out whether that has happened. Call it
/// first.
///
/// @param argv  Stays valid as long as the program runs.
/// @return When the program began: the first of the two, if it was started again.
std::chrono::steady_clock::time_point keep_arguments(char** argv);

/// If the bundle brings a C library and this process does not run on it, the process becomes this program on it: the
/// bundle's loader, its C library and then this program, with the same arguments. The bytes that were hashed are those
/// that run, for all are handed over as open descriptors.
///
/// @return kOk: the process runs as the bundle wants it. kCorrupt: a hash differs. kIncompatible: the system does not
/// start the loader, or it was started and the system does not say so.
edgebuild::Status enter_loader(const edgebuild::bundle::Bundle& bundle);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_LOADER_HPP_
