// Goldens of a bundle: as values, and held against what a variant computes.

#ifndef EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_
#define EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "compare.hpp"
#include "io.hpp"

namespace edgerun {

/// Maps the files (each checked against its hash) and makes values over them.
///
/// @param goldens  `inputs` or `outputs` of one golden, in signature order.
/// @return kCorrupt: a hash, or bytes that are not what dtype and shape need.
[[nodiscard]] edgebuild::Result<LoadedInputs> load_golden(const edgebuild::bundle::Bundle& bundle,
                                                          const std::vector<edgebuild::bundle::GoldenValue>& goldens);

/// The inputs that `files` name; if it names none, those of the bundle's first golden.
///
/// @return What load_inputs returns; kUsage if there are neither files nor goldens.
[[nodiscard]] edgebuild::Result<LoadedInputs> inputs_or_golden(const std::string& bundle, const InputFiles& files,
                                                               const edgebuild::Runner& runner);

/// The worst comparison of one output over all goldens.
struct OutputReport {
  Comparison comparison;
  std::size_t golden = 0;
};

/// Runs golden `index` and keeps for each output what is worse: this comparison or the one that stands there.
///
/// @return The run's failure, naming variant and golden. A golden that is outside of its tolerance is no failure.
[[nodiscard]] edgebuild::Status compare_golden(edgebuild::Runner& runner, const edgebuild::bundle::Bundle& bundle,
                                               const edgebuild::bundle::Variant& variant, std::size_t index,
                                               const edgebuild::RunOptions& options,
                                               std::vector<OutputReport>& reports);

/// What the variant's tolerance of this output is.
[[nodiscard]] edgebuild::bundle::Tolerance tolerance_of(const edgebuild::bundle::Variant& variant,
                                                        const std::string& output);
[[nodiscard]] bool all_agree(const std::vector<OutputReport>& reports);
/// One line that names the first output that is outside; empty if there is none.
[[nodiscard]] std::string describe_failure(const edgebuild::bundle::Bundle& bundle, const std::string& variant,
                                           const std::vector<OutputReport>& reports);
/// E.g. "[0,3]".
[[nodiscard]] std::string index_text(const std::vector<std::int64_t>& index);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_GOLDEN_HPP_
