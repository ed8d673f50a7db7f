#include "runner/registry.hpp"

#include <dlfcn.h>

#include <cstddef>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "runner/host_api.hpp"

extern "C" {
const eb_backend_api* edgebuild_backend_query_onnxruntime(uint32_t host_major, uint32_t host_minor);
const eb_backend_api* edgebuild_backend_query_reference(uint32_t host_major, uint32_t host_minor);
}

namespace edgebuild::runner {
namespace {

constexpr BuiltinBackend kBuiltin[] = {
    {"onnxruntime", edgebuild_backend_query_onnxruntime},
    {"reference", edgebuild_backend_query_reference},
};

/// Majors to ask a plugin for, only to name its version when it refuses ours.
constexpr std::uint32_t kMostMajors = 64;

std::string version_text(std::uint32_t major, std::uint32_t minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string version_of_refusing(eb_backend_query_fn query) {
  for (std::uint32_t major = 0; major < kMostMajors; ++major) {
    // The prefix with the version is the same in every major.
    const eb_backend_api* const api = query(major, std::numeric_limits<std::uint32_t>::max());
    if (api != nullptr) return version_text(api->abi_major, api->abi_minor);
  }
  return "unknown";
}

struct Registry {
  std::mutex mutex;
  std::map<std::string, bundle::FileDescriptor> libraries;  // By SHA-256.
  std::map<std::tuple<const eb_backend_api*, std::string, std::string>, std::weak_ptr<BackendInstance>> backends;
};

/// Never destroyed: what it holds must outlive every Runner, also one in a static variable.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

}  // namespace

std::span<const BuiltinBackend> builtin_backends() noexcept { return kBuiltin; }

Result<const eb_backend_api*> query_backend(eb_backend_query_fn query, const std::string& what) {
  const eb_backend_api* const api = query(EB_ABI_MAJOR, EB_ABI_MINOR);
  const std::string host = version_text(EB_ABI_MAJOR, EB_ABI_MINOR);
  if (api == nullptr || eb_abi_compatible(api->abi_major, api->abi_minor, EB_ABI_MAJOR, EB_ABI_MINOR) == 0) {
    const std::string version =
        api != nullptr ? version_text(api->abi_major, api->abi_minor) : version_of_refusing(query);
    return Status(Code::kIncompatible, what + " speaks plugin ABI " + version + ", this runner speaks " + host +
                                           "; the majors must be equal and the plugin's minor not above the runner's");
  }
  // Minor 0 is the oldest, so every table has at least its entries.
  const std::size_t least = api->abi_minor == 0 ? offsetof(eb_backend_api, model_settle) : sizeof(eb_backend_api);
  if (api->struct_size < least) {
    return Status(Code::kIncompatible, what + ": its table has " + std::to_string(api->struct_size) + " bytes, ABI " +
                                           host + " needs " + std::to_string(least));
  }
  return api;
}

Result<const eb_backend_api*> find_builtin(const std::string& name) {
  std::string known;
  for (const BuiltinBackend& backend : kBuiltin) {
    if (name == backend.name) return query_backend(backend.query, "backend " + name);
    known += known.empty() ? "" : ", ";
    known += backend.name;
  }
  return Status(Code::kIncompatible, "this runner has no backend '" + name + "' built in (it has " + known +
                                         ") and the variant brings no plugin");
}

std::string library_path(bundle::FileDescriptor file, const std::string& sha256) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto [position, added] = all.libraries.try_emplace(sha256, std::move(file));
  return "/proc/self/fd/" + std::to_string(position->second.get());
}

Result<const eb_backend_api*> load_plugin(const std::string& library, const std::string& path,
                                          const std::string& backend) {
  const std::string what = "plugin " + path;
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);  // Never closed: see backend_plugin.h.
  if (handle == nullptr) {
    const char* const reason = dlerror();
    return Status(Code::kIncompatible, what + " can't be loaded: " + (reason != nullptr ? reason : "unknown"));
  }
  const auto query = reinterpret_cast<eb_backend_query_fn>(dlsym(handle, EB_BACKEND_QUERY_SYMBOL));
  if (query == nullptr) {
    return Status(Code::kIncompatible, what + " is no backend: it does not export " EB_BACKEND_QUERY_SYMBOL);
  }
  Result<const eb_backend_api*> api = query_backend(query, what);
  if (api.ok() && backend != api.value()->name) {
    return Status(Code::kCorrupt,
                  what + " is the backend '" + api.value()->name + "', the variant says '" + backend + "'");
  }
  return api;
}

Status load_needed(const std::string& library, const std::string& path) {
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return {};
  const char* const reason = dlerror();
  return Status(Code::kIncompatible, path + " can't be loaded: " + (reason != nullptr ? reason : "unknown"));
}

Result<std::shared_ptr<BackendInstance>> open_backend(const eb_backend_api* api,
                                                      const std::optional<std::string>& library,
                                                      const std::optional<std::string>& version) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);  // Held while the engine is opened: two runners must not open it twice.
  std::weak_ptr<BackendInstance>& known = all.backends[{api, library.value_or(""), version.value_or("")}];
  if (std::shared_ptr<BackendInstance> living = known.lock()) return living;
  const eb_backend_config config = {
      .struct_size = sizeof(eb_backend_config),
      .reserved = 0,
      .engine_library = library ? library->c_str() : nullptr,
      .engine_version = version ? version->c_str() : nullptr,
  };
  auto instance = std::make_shared<BackendInstance>(api, nullptr);
  Status status = take_status(api->backend_create(&host_api(), &config, &instance->backend));
  if (!status.ok()) return status;
  known = instance;
  return instance;
}

}  // namespace edgebuild::runner
