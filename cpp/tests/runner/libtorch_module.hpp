// TorchScript for tests: compiled from source by LibTorch itself, and saved into memory.

#ifndef EDGEBUILD_TESTS_RUNNER_LIBTORCH_MODULE_HPP_
#define EDGEBUILD_TESTS_RUNNER_LIBTORCH_MODULE_HPP_

#include <string>
#include <vector>

namespace edgebuild::testing {

/// The archive of a module with these methods and one float32 buffer `state` of these values.
///
/// @param frozen  Whether constants are folded in, as the build does.
[[nodiscard]] std::string torch_script(const std::string& methods, const std::vector<float>& state = {},
                                       bool frozen = false);

/// The archive of a module that calls an operator which was there only while it was written.
[[nodiscard]] std::string torch_script_with_lost_operator();

/// The version of the library that the tests are linked with.
[[nodiscard]] std::string torch_version();

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_RUNNER_LIBTORCH_MODULE_HPP_
