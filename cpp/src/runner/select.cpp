#include "runner/select.hpp"

#include <algorithm>
#include <set>

#include "runner/host_api.hpp"
#include "runner/requirements.hpp"

namespace edgebuild::runner {
namespace {

/// A process can't change its C library any more, so only a program that starts anew through the bundle's loader can.
constexpr char kOwnLibcAlone[] =
    "; the bundle brings a C library of its own, with which only its bin/edgerun can start";

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

/// The variants that are asked for, in the manifest's order.
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

/// Of two engines of one name, e.g. one that the system brings, only the measured one has the measured speed.
bool engine_changed(const VariantOrder& order, const std::string& variant, const LoadedModel& model) {
  if (!order.tuning) return false;
  for (const TunedVariant& tuned : order.tuning->variants) {
    if (tuned.name == variant) return tuned.engine_version != model.engine_version();
  }
  return false;
}

std::vector<std::size_t> manifest_order(std::size_t count) {
  std::vector<std::size_t> indices;
  for (std::size_t index = 0; index < count; ++index) indices.push_back(index);
  return indices;
}

/// Tries `ordered` one after the other.
Status load_first(const bundle::Bundle& bundle, const LoadOptions& options, const Machine& machine,
                  const std::vector<const bundle::Variant*>& ordered, Choice* choice) {
  Code common = Code::kOk;
  std::string reasons;
  for (const bundle::Variant* candidate : ordered) {
    Status failure;
    if (const std::optional<std::string> missing = missing_requirement(candidate->requires_, machine)) {
      failure = Status(Code::kIncompatible, *missing + (bundle.manifest().loader ? kOwnLibcAlone : ""));
    } else {
      Result<std::unique_ptr<LoadedModel>> loaded =
          LoadedModel::load(bundle, *candidate, options.options, options.state_dir, {}, options.engine_folders);
      if (loaded.ok()) {
        choice->variant = candidate;
        choice->model = std::move(loaded).value();
        return {};
      }
      failure = loaded.status();
      if (!may_fall_back(failure.code())) return failure.with_context("variant " + candidate->name);
    }
    choice->passed_over.push_back({candidate->name, failure.message()});
    reasons += (reasons.empty() ? "" : "; ") + candidate->name + ": " + failure.message();
    common = common == Code::kOk || common == failure.code() ? failure.code() : Code::kIncompatible;
    if (!options.allow_fallback) break;
    log_line(EB_LOG_WARNING, "variant " + candidate->name + " is passed over: " + failure.message());
  }
  // Out of memory everywhere is not the bundle's fault; anything else means that nothing in it fits this machine.
  return Status(common == Code::kResourceExhausted ? common : Code::kIncompatible,
                "no variant can run here: " + reasons);
}

}  // namespace

VariantOrder order_here(const bundle::Bundle& bundle, const std::string& state_dir, unsigned threads, bool tuning) {
  OrderRequest request{bundle.id(), bundle.manifest().arch, {}, state_dir, threads, tuning};
  for (const bundle::Variant& variant : bundle.manifest().variants) request.names.push_back(variant.name);
  return variant_order(request);
}

Status select_variant(const bundle::Bundle& bundle, const LoadOptions& options, Choice* choice) {
  const bundle::Manifest& manifest = bundle.manifest();
  Result<std::vector<const bundle::Variant*>> wanted = candidates(manifest, options);
  if (!wanted.ok()) return wanted.status();
  const Machine machine = probe_machine();
  if (manifest.arch != machine.arch) {
    return Status(Code::kIncompatible, "the bundle is for " + manifest.arch + " (target " + manifest.target_name +
                                           "), this process is " + machine.arch);
  }
  if (wanted.value().size() == 1 && manifest.variants.size() > 1) {
    choice->order.indices = manifest_order(manifest.variants.size());
    choice->order.why = "one variant is asked for";
  } else {
    choice->order = order_here(bundle, options.state_dir, asked_threads(options.options), options.tuning);
    if (manifest.variants.size() > 1) log_line(EB_LOG_INFO, "order of the variants: " + choice->order.why);
  }
  std::vector<const bundle::Variant*> ordered;
  for (const std::size_t index : choice->order.indices) {
    const bundle::Variant* const variant = &manifest.variants[index];
    if (std::find(wanted.value().begin(), wanted.value().end(), variant) != wanted.value().end()) {
      ordered.push_back(variant);
    }
  }
  EDGEBUILD_RETURN_IF_ERROR(load_first(bundle, options, machine, ordered, choice));
  if (!engine_changed(choice->order, choice->variant->name, *choice->model)) return {};
  const std::string version = choice->model->engine_version();
  *choice = Choice();
  choice->order.indices = manifest_order(manifest.variants.size());
  choice->order.why = "the target's: it was tuned with another engine than " + version;
  log_line(EB_LOG_INFO, "order of the variants: " + choice->order.why);
  return load_first(bundle, options, machine, wanted.value(), choice);
}

}  // namespace edgebuild::runner
