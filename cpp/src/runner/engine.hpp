// From a variant to its started backend: plugin, engine and what the engine needs, each hashed before it is loaded.

#ifndef EDGEBUILD_SRC_RUNNER_ENGINE_HPP_
#define EDGEBUILD_SRC_RUNNER_ENGINE_HPP_

#include <map>
#include <memory>
#include <string>

#include "bundle/bundle.hpp"
#include "edgebuild/runner.hpp"
#include "runner/registry.hpp"

namespace edgebuild::runner {

/// Starts the backend of a variant.
///
/// A backend that is built in opens its engine's library itself. A plugin is linked with its engine, which is therefore
/// loaded before it: the one that `folders` names, else the one that the process has, else the bundle's.
///
/// @param folders  See LoadOptions::engine_folders.
/// @return kIncompatible: a library can't be loaded, or the process has another version of the engine (names both).
Result<std::shared_ptr<BackendInstance>> start_backend(const bundle::Bundle& bundle, const bundle::Variant& variant,
                                                       const std::map<std::string, EngineFolder>& folders);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_ENGINE_HPP_
