// `run --each`: one inference for each index of an extra leading axis, the outputs stacked along one.

#ifndef EDGEBUILD_APPS_EDGERUN_EACH_HPP_
#define EDGEBUILD_APPS_EDGERUN_EACH_HPP_

#include <functional>
#include <span>
#include <vector>

#include "arrays.hpp"
#include "edgebuild/runner.hpp"

namespace edgerun {

/// Outputs with a leading axis as long as that of the inputs, and the memory that they refer to.
struct StackedOutputs {
  std::vector<edgebuild::Value> values;
  std::vector<std::vector<std::byte>> storage;
  std::int64_t count = 0;  ///< Inferences.
};

/// Runs once for each index of the inputs' first axis.
///
/// @param inputs   Signature order; tensors of whole-byte elements with one more leading axis, equally long in all.
/// @param options  Called before each inference: each has the whole deadline.
/// @return kInvalidArgument, naming the tensor: no leading axis, another length, strings, packed types, an output whose
///         dtype or shape changes from one inference to the next; whatever Runner::run returns, with the index.
[[nodiscard]] edgebuild::Result<StackedOutputs> run_each(edgebuild::Runner& runner,
                                                         std::span<const edgebuild::Value> inputs,
                                                         const std::function<edgebuild::RunOptions()>& options);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_EACH_HPP_
