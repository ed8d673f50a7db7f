// Backends: built in, or loaded from a plugin's file.

#ifndef EDGEBUILD_SRC_RUNNER_REGISTRY_HPP_
#define EDGEBUILD_SRC_RUNNER_REGISTRY_HPP_

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "bundle/bundle.hpp"
#include "edgebuild/backend_plugin.h"
#include "edgebuild/status.hpp"

namespace edgebuild::runner {

struct BuiltinBackend {
  const char* name;
  eb_backend_query_fn query;
};

/// Every backend that is linked in. The one place that lists them.
[[nodiscard]] std::span<const BuiltinBackend> builtin_backends() noexcept;

/// Asks a query function for its table and checks the versions.
///
/// @param what  Begins the message, e.g. "plugin lib/libedgebuild_x.so".
/// @return kIncompatible, naming the plugin's and the host's version.
Result<const eb_backend_api*> query_backend(eb_backend_query_fn query, const std::string& what);

/// The built-in backend of this name. kIncompatible, naming those that are built in.
Result<const eb_backend_api*> find_builtin(const std::string& name);

/// Loads a plugin. It stays loaded until the process ends.
///
/// @param library  As library_path() gave it.
/// @param path     In the bundle, for messages.
Result<const eb_backend_api*> load_plugin(const std::string& library, const std::string& path,
                                          const std::string& backend);

/// A path under which dlopen() finds the bytes behind `file` for the rest of the process; the same for the same bytes,
/// whichever bundle they come from.
///
/// dlopen() remembers a library by the path that it was given. /proc/self/fd/N must therefore never come to mean
/// another file: descriptors that went to dlopen() are kept open, one for each content.
///
/// @param sha256  What the bytes were found to have.
std::string library_path(bundle::FileDescriptor file, const std::string& sha256);

/// Loads a library, so that libraries that need it find it by its SONAME. It stays loaded until the process ends.
///
/// What an engine needs is loaded so, one by one, each after what it needs itself: then the dynamic linker has nothing
/// left to look for in folders, where nobody has hashed anything.
///
/// @param library  As library_path() gave it.
/// @param path     In the bundle, for messages.
Status load_needed(const std::string& library, const std::string& path);

/// A backend that was created, shared by the runners that use the same engine library.
struct BackendInstance {
  const eb_backend_api* api = nullptr;
  eb_backend* backend = nullptr;
  BackendInstance(const eb_backend_api* table, eb_backend* made) noexcept : api(table), backend(made) {}
  BackendInstance(const BackendInstance&) = delete;
  BackendInstance& operator=(const BackendInstance&) = delete;
  ~BackendInstance() {
    if (backend != nullptr) api->backend_destroy(backend);
  }
};

/// Creates a backend, or gives the one that a living Runner already uses with this library and version.
Result<std::shared_ptr<BackendInstance>> open_backend(const eb_backend_api* api,
                                                      const std::optional<std::string>& library,
                                                      const std::optional<std::string>& version);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_REGISTRY_HPP_
