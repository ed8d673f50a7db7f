#include "runner/engine.hpp"

#include <dlfcn.h>

#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "runner/host_api.hpp"

namespace edgebuild::runner {
namespace {

/// An engine that plugins of this process are linked with.
struct LinkedEngine {
  std::string version;
  std::string origin;
};

/// Never destroyed, like the libraries themselves.
struct LinkedEngines {
  std::mutex mutex;
  std::map<std::string, LinkedEngine> engines;  // By name.
};

LinkedEngines& linked_engines() {
  static auto* const instance = new LinkedEngines;
  return *instance;
}

/// Without what follows a plus sign, which names the build ("+cpu"), not the version.
std::string_view release_of(std::string_view version) { return version.substr(0, version.find('+')); }

std::string last_segment(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// Opens a library of the bundle, or an external one, and checks its bytes.
Result<std::string> checked_library(const bundle::Bundle& bundle, const bundle::Engine& engine,
                                    const std::string& library, const bundle::FileEntry& external) {
  Result<bundle::FileDescriptor> file =
      engine.external ? bundle.open_external(engine, library, external) : bundle.open_file(library);
  if (!file.ok()) return file.status();
  const std::string& sha256 = engine.external ? external.sha256 : bundle.manifest().files.at(library).sha256;
  return library_path(std::move(file).value(), sha256);
}

Status load_what_is_needed(const bundle::Bundle& bundle, const bundle::Engine& engine) {
  for (const bundle::NeededLibrary& needed : engine.needed) {
    const Result<std::string> library = checked_library(bundle, engine, needed.library, needed.external_file);
    if (!library.ok()) return library.status();
    EDGEBUILD_RETURN_IF_ERROR(load_needed(library.value(), needed.library));
  }
  return {};
}

Status wrong_version(const bundle::Engine& engine, const LinkedEngine& present) {
  return Status(Code::kIncompatible, "the variant is for " + engine.name + " " + engine.version +
                                         ", this process has " + present.version + " (" + present.origin +
                                         "), and two versions of it can't be in one process");
}

/// Puts the engine that a plugin is linked with into the process, where the plugin finds it by its SONAME.
Status link_engine(const bundle::Bundle& bundle, const bundle::Engine& engine,
                   const std::map<std::string, EngineFolder>& folders) {
  LinkedEngines& all = linked_engines();
  const std::lock_guard lock(all.mutex);
  if (const auto known = all.engines.find(engine.name); known != all.engines.end()) {
    const bool same = release_of(known->second.version) == release_of(engine.version);
    return same ? Status() : wrong_version(engine, known->second);
  }
  LinkedEngine linked;
  const std::string soname = last_segment(engine.library);
  if (const auto folder = folders.find(engine.name); folder != folders.end()) {
    linked = {folder->second.version, folder->second.path};
    if (release_of(linked.version) != release_of(engine.version)) return wrong_version(engine, linked);
    // Its own RUNPATH leads to what it needs.
    EDGEBUILD_RETURN_IF_ERROR(load_needed(linked.origin + "/" + soname, linked.origin + "/" + soname));
    log_line(EB_LOG_INFO, engine.name + " " + linked.version + " of this process is used, from " + linked.origin);
  } else if (dlopen(soname.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) != nullptr) {
    // The plugin itself finds out whether it is of the right version.
    linked = {engine.version, "loaded by the program"};
  } else {
    EDGEBUILD_RETURN_IF_ERROR(load_what_is_needed(bundle, engine));
    const Result<std::string> library = checked_library(bundle, engine, engine.library, engine.external_file);
    if (!library.ok()) return library.status();
    EDGEBUILD_RETURN_IF_ERROR(load_needed(library.value(), engine.library));
    linked = {engine.version, "from the bundle " + bundle.root().string()};
  }
  all.engines.emplace(engine.name, std::move(linked));
  return {};
}

Result<std::shared_ptr<BackendInstance>> start_plugin(const bundle::Bundle& bundle, const bundle::Variant& variant,
                                                      const std::map<std::string, EngineFolder>& folders) {
  std::optional<std::string> version;
  if (variant.engine) {
    EDGEBUILD_RETURN_IF_ERROR(link_engine(bundle, *variant.engine, folders));
    version = variant.engine->version;
  }
  Result<bundle::FileDescriptor> file = bundle.open_file(*variant.plugin);
  if (!file.ok()) return file.status();
  const std::string library = library_path(std::move(file).value(), bundle.manifest().files.at(*variant.plugin).sha256);
  const Result<const eb_backend_api*> api = load_plugin(library, *variant.plugin, variant.backend);
  if (!api.ok()) return api.status();
  return open_backend(api.value(), std::nullopt, version);
}

}  // namespace

Result<std::shared_ptr<BackendInstance>> start_backend(const bundle::Bundle& bundle, const bundle::Variant& variant,
                                                       const std::map<std::string, EngineFolder>& folders) {
  if (variant.plugin) return start_plugin(bundle, variant, folders);
  const Result<const eb_backend_api*> api = find_builtin(variant.backend);
  if (!api.ok()) return api.status();
  if (!variant.engine) return open_backend(api.value(), std::nullopt, std::nullopt);
  const bundle::Engine& engine = *variant.engine;
  EDGEBUILD_RETURN_IF_ERROR(load_what_is_needed(bundle, engine));
  const Result<std::string> library = checked_library(bundle, engine, engine.library, engine.external_file);
  if (!library.ok()) return library.status();
  Result<std::shared_ptr<BackendInstance>> backend = open_backend(api.value(), library.value(), engine.version);
  if (!backend.ok()) return backend.status().with_context("engine " + engine.library);
  return backend;
}

}  // namespace edgebuild::runner
