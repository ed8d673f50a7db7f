// Which variant runs here: the first that can, in the manifest's order.

#ifndef EDGEBUILD_SRC_RUNNER_SELECT_HPP_
#define EDGEBUILD_SRC_RUNNER_SELECT_HPP_

#include <memory>
#include <vector>

#include "bundle/bundle.hpp"
#include "edgebuild/runner.hpp"
#include "runner/model.hpp"

namespace edgebuild::runner {

/// Loads the first variant that `options` allow and that can run here.
///
/// @param variant  Points into the bundle's manifest.
/// @return kUsage (no such backend or variant, naming those there are; a bad backend option), kIncompatible (the wrong
///         architecture, or no variant can run, with the reason for each), kCorrupt, kIo.
Status select_variant(const bundle::Bundle& bundle, const LoadOptions& options, const bundle::Variant** variant,
                      std::unique_ptr<LoadedModel>* model, std::vector<PassedOver>* passed_over);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_SELECT_HPP_
