// Which variant runs here: the first that can, in the manifest's order or as tuned on this machine.

#ifndef EDGEBUILD_SRC_RUNNER_SELECT_HPP_
#define EDGEBUILD_SRC_RUNNER_SELECT_HPP_

#include <memory>
#include <vector>

#include "bundle/bundle.hpp"
#include "edgebuild/runner.hpp"
#include "runner/model.hpp"
#include "runner/tuning.hpp"

namespace edgebuild::runner {

/// What was chosen, and why.
struct Choice {
  const bundle::Variant* variant = nullptr;  ///< Of the bundle's manifest.
  std::unique_ptr<LoadedModel> model;
  std::vector<PassedOver> passed_over;
  VariantOrder order;
};

/// The order in which the variants of a bundle would be tried here.
///
/// @param tuning  false: the manifest's, whatever was kept.
[[nodiscard]] VariantOrder order_here(const bundle::Bundle& bundle, const std::string& state_dir, unsigned threads,
                                      bool tuning = true);

/// Loads the first variant that `options` allow and that can run here.
///
/// @return kUsage (no such backend or variant, naming those there are; a bad backend option), kIncompatible (the wrong
///         architecture, or no variant can run, with the reason for each), kCorrupt, kIo.
Status select_variant(const bundle::Bundle& bundle, const LoadOptions& options, Choice* choice);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_SELECT_HPP_
