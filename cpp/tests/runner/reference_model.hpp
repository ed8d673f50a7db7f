// Models of the reference backend that several tests use.

#ifndef EDGEBUILD_TESTS_RUNNER_REFERENCE_MODEL_HPP_
#define EDGEBUILD_TESTS_RUNNER_REFERENCE_MODEL_HPP_

#include <vector>

#include "runner_bundle.hpp"

namespace edgebuild::testing {

/// y = relu(x * w + b), x float32[batch, 3].
extern const char* const kAffine;
void describe_affine(RunnerBundle& bundle);
/// What it computes.
[[nodiscard]] std::vector<float> affine(const std::vector<float>& x);

/// Sleeps for an hour unless it is stopped.
extern const char* const kSleep;
void describe_sleep(RunnerBundle& bundle);

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_RUNNER_REFERENCE_MODEL_HPP_
