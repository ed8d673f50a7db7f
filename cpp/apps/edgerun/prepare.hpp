// Making on this machine what a bundle's variants need before they can run, and judging it by the goldens.

#ifndef EDGEBUILD_APPS_EDGERUN_PREPARE_HPP_
#define EDGEBUILD_APPS_EDGERUN_PREPARE_HPP_

#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "command.hpp"

namespace edgerun {

/// What came of one variant.
struct Prepared {
  enum class Result { kNothing, kReady, kFailed };
  std::string variant;
  Result result = Result::kNothing;  ///< kNothing: it needs nothing but what the bundle brings.
  edgebuild::Status failure;         ///< Why it failed.
  bool made = false;                 ///< Something was made now; else what was there holds.
  double seconds = 0.0;
};

struct PrepareRequest {
  bool all = false;   ///< Every variant that can be prepared; else the first, and others only while it fails.
  bool anew = false;  ///< Make it anew, whatever is there.
};

/// Prepares variants in the manifest's order, of those that `options` allow. What is made passes the bundle's goldens,
/// or is made anew once, or given up: then the next variant. Says on stderr how far it is.
///
/// @return A failure that is not a variant's own: damage, wrong usage.
[[nodiscard]] edgebuild::Status prepare_variants(const edgebuild::bundle::Bundle& bundle, const CommonOptions& options,
                                                 const PrepareRequest& request, std::vector<Prepared>* out);

/// Why nothing is ready, in one line with the first failure's code; OK if something is, or nothing had to be.
[[nodiscard]] edgebuild::Status why_none_ready(const std::vector<Prepared>& prepared);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_PREPARE_HPP_
