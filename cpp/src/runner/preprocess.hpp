// Preprocessing on values: decoded images in, the model's input out.

#ifndef EDGEBUILD_SRC_RUNNER_PREPROCESS_HPP_
#define EDGEBUILD_SRC_RUNNER_PREPROCESS_HPP_

#include "edgebuild/runner.hpp"
#include "preprocess/spec.hpp"

namespace edgebuild::runner {

/// Makes images into one tensor with a batch axis.
///
/// @param images  uint8 of shape (H, W), (H, W, C) or (N, H, W, C), C = 1, 3 or 4.
/// @return kInvalidArgument: another dtype or shape, or the spec does not make sense; kResourceExhausted.
[[nodiscard]] Result<Value> preprocess_images(const preprocess::ImageSpec& spec, const eb_value& images);

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_PREPROCESS_HPP_
