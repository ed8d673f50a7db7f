#include "runner/select.hpp"

#include <set>

#include "runner/host_api.hpp"
#include "runner/requirements.hpp"

namespace edgebuild::runner {
namespace {

/// Whether the next variant may serve when this one failed so. Damage and wrong usage are never passed over in silence.
bool may_fall_back(Code code) noexcept {
  return code == Code::kIncompatible || code == Code::kUnsupported || code == Code::kNotFound ||
         code == Code::kResourceExhausted;
}

Status unknown_name(const char* noun, const std::string& name, const std::set<std::string>& known) {
  std::string list;
  for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
  return Status(Code::kUsage, std::string("the bundle has no ") + noun + " '" + name + "'; it has " + list);
}

Result<std::vector<const bundle::Variant*>> candidates(const bundle::Manifest& manifest, const LoadOptions& options) {
  std::set<std::string> backends;
  std::set<std::string> names;
  std::vector<const bundle::Variant*> chosen;
  for (const bundle::Variant& variant : manifest.variants) {
    backends.insert(variant.backend);
    names.insert(variant.name);
    const bool backend_fits = options.backend.empty() || variant.backend == options.backend;
    const bool name_fits = options.variant.empty() || variant.name == options.variant;
    if (backend_fits && name_fits) chosen.push_back(&variant);
  }
  if (!options.backend.empty() && !backends.contains(options.backend)) {
    return unknown_name("backend", options.backend, backends);
  }
  if (!options.variant.empty() && !names.contains(options.variant)) {
    return unknown_name("variant", options.variant, names);
  }
  if (chosen.empty()) {
    return Status(Code::kUsage, "variant '" + options.variant + "' is not of the backend '" + options.backend + "'");
  }
  return chosen;
}

}  // namespace

Status select_variant(const bundle::Bundle& bundle, const LoadOptions& options, const bundle::Variant** variant,
                      std::unique_ptr<LoadedModel>* model, std::vector<PassedOver>* passed_over) {
  const bundle::Manifest& manifest = bundle.manifest();
  Result<std::vector<const bundle::Variant*>> chosen = candidates(manifest, options);
  if (!chosen.ok()) return chosen.status();
  const Machine machine = probe_machine();
  if (manifest.arch != machine.arch) {
    return Status(Code::kIncompatible, "the bundle is for " + manifest.arch + " (target " + manifest.target_name +
                                           "), this process is " + machine.arch);
  }
  Code common = Code::kOk;
  std::string reasons;
  for (const bundle::Variant* candidate : chosen.value()) {
    Status failure;
    if (const std::optional<std::string> missing = missing_requirement(candidate->requires_, machine)) {
      failure = Status(Code::kIncompatible, *missing);
    } else {
      Result<std::unique_ptr<LoadedModel>> loaded = LoadedModel::load(bundle, *candidate, options.options);
      if (loaded.ok()) {
        *variant = candidate;
        *model = std::move(loaded).value();
        return {};
      }
      failure = loaded.status();
      if (!may_fall_back(failure.code())) return failure.with_context("variant " + candidate->name);
    }
    passed_over->push_back({candidate->name, failure.message()});
    reasons += (reasons.empty() ? "" : "; ") + candidate->name + ": " + failure.message();
    common = common == Code::kOk || common == failure.code() ? failure.code() : Code::kIncompatible;
    if (!options.allow_fallback) break;
    log_line(EB_LOG_WARNING, "variant " + candidate->name + " is passed over: " + failure.message());
  }
  // Out of memory everywhere is not the bundle's fault; anything else means that nothing in it fits this machine.
  return Status(common == Code::kResourceExhausted ? common : Code::kIncompatible,
                "no variant can run here: " + reasons);
}

}  // namespace edgebuild::runner
