// The recipe of a plan: how TensorRT is to build it. It comes as the variant's options, written by `edgebuild`.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_RECIPE_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_RECIPE_HPP_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "edgebuild/status.hpp"

namespace edgebuild::tensorrt {

/// Sizes of one input between which a plan works, and those that it is tuned for.
struct ProfileShapes {
  std::vector<std::int64_t> min;
  std::vector<std::int64_t> best;
  std::vector<std::int64_t> max;
};

struct Recipe {
  std::uint64_t workspace_mib = 1024;             ///< Scratch memory that a layer's kernel may use.
  std::map<std::string, ProfileShapes> profiles;  ///< Of the inputs with dynamic sizes, by engine name.
  std::optional<std::uint32_t> dla_core;          ///< Run on this deep-learning accelerator, the GPU for the rest.
  bool sparsity = false;                          ///< Use 2:4 structured sparsity where weights have it.
  bool tf32 = false;                              ///< Round float32 products to 10 bits of mantissa.
  bool timing_cache = true;                       ///< Keep what was measured, for later builds on this machine.
  bool cuda_graph = false;                        ///< Queue runs of the same shapes and addresses as one.
  std::uint32_t optimization_level = 3;           ///< 0 (fast build) to 5 (fast plan).
  std::uint32_t device = 0;                       ///< CUDA's number of the GPU.

  /// One line a field, the same text for the same recipe. What hangs on no plan (the timing cache, graphs) is left out.
  [[nodiscard]] std::string text() const;
};

/// Parses options: workspace_mib, dla_core ("none" or a number), sparsity, tf32, timing_cache, cuda_graph ("0", "1"),
/// optimization_level, device, and for each dynamic input `profile.NAME` = "MIN:BEST:MAX", each with sizes such as
/// "1,3,224,224".
///
/// @return kUsage, naming the option and what was expected.
[[nodiscard]] Result<Recipe> parse_recipe(const std::map<std::string, std::string>& options);

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_RECIPE_HPP_
