// What every backend written in C++ needs at the C border: statuses made by the host, and no exception across it.

#ifndef EDGEBUILD_BACKENDS_COMMON_PLUGIN_HPP_
#define EDGEBUILD_BACKENDS_COMMON_PLUGIN_HPP_

#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "edgebuild/backend_plugin.h"

namespace edgebuild::plugin {

/// A status of the host's; NULL never.
inline eb_status* make_error(const eb_host_api& host, eb_code code, std::string_view message) noexcept {
  return host.status_create(host.user, code, message.data(), message.size());
}

inline void log(const eb_host_api& host, eb_severity severity, std::string_view message) noexcept {
  host.log(host.user, severity, message.data(), message.size());
}

/// Calls `body` (which returns an eb_status*) and turns an exception into a status.
template <typename Body>
eb_status* guard(const eb_host_api& host, Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return make_error(host, EB_RESOURCE_EXHAUSTED, "out of memory");
  } catch (const std::exception& exception) {
    return make_error(host, EB_INTERNAL, exception.what());
  } catch (...) {
    return make_error(host, EB_INTERNAL, "an unknown exception");
  }
}

/// Joins names for a message: "a, b, c".
template <typename Names>
std::string join(const Names& names) {
  std::string joined;
  for (const auto& name : names) {
    if (!joined.empty()) joined += ", ";
    joined += name;
  }
  return joined;
}

}  // namespace edgebuild::plugin

/// Returns from the enclosing function if `expression` (an eb_status*) is an error.
#define EDGEBUILD_PLUGIN_TRY(expression)                                                   \
  do {                                                                                     \
    if (eb_status* edgebuild_plugin_status = (expression)) return edgebuild_plugin_status; \
  } while (false)

/// The one exported symbol of a backend; its name is given by the build (cmake/AddBackend.cmake).
#define EDGEBUILD_PLUGIN_QUERY \
  extern "C" __attribute__((visibility("default"))) const eb_backend_api* EDGEBUILD_BACKEND_QUERY

#endif  // EDGEBUILD_BACKENDS_COMMON_PLUGIN_HPP_
