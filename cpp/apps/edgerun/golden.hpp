// Goldens of a bundle as values.

#ifndef EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_
#define EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_

#include "bundle/bundle.hpp"
#include "io.hpp"

namespace edgerun {

/// Maps the files (each checked against its hash) and makes values over them.
///
/// @param goldens  `inputs` or `outputs` of one golden, in signature order.
/// @return kCorrupt: a hash, or bytes that are not what dtype and shape need.
[[nodiscard]] edgebuild::Result<LoadedInputs> load_golden(const edgebuild::bundle::Bundle& bundle,
                                                          const std::vector<edgebuild::bundle::GoldenValue>& goldens);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_
