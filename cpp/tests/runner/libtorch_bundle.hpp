// What the tests of the LibTorch backend share: bundles around a TorchScript archive and the plugin.

#ifndef EDGEBUILD_TESTS_RUNNER_LIBTORCH_BUNDLE_HPP_
#define EDGEBUILD_TESTS_RUNNER_LIBTORCH_BUNDLE_HPP_

#include <doctest/doctest.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "libtorch_module.hpp"
#include "runner_bundle.hpp"

namespace edgebuild::testing {

/// A bundle with inputs and outputs in the order of `forward`; every tensor float32 of unknown shape unless changed.
class TorchBundle {
 public:
  TorchBundle(const std::string& archive, const std::vector<std::string>& inputs, std::size_t outputs,
              const std::string& dtype = "float32", const Json& shape = nullptr)
      : bundle_("libtorch", archive) {
    for (const std::string& name : inputs) bundle_.input(name, tensor_type(dtype, shape));
    for (std::size_t i = 0; i < outputs; ++i) {
      bundle_.output("out" + std::to_string(i), tensor_type(dtype, nullptr));
      bundle_.variant()["outputs"][i] = std::to_string(i);
    }
    bundle_.variant()["plugin"] = bundle_.library(EDGEBUILD_TEST_LIBTORCH_PLUGIN);
  }
  RunnerBundle* operator->() { return &bundle_; }
  Runner load(const LoadOptions& options = {}) { return load_or_die(bundle_.write(), options); }
  Status failure(const LoadOptions& options = {}) { return Runner::load(bundle_.write(), options).status(); }

 private:
  RunnerBundle bundle_;
};

inline TorchBundle one_input(const std::string& forward, std::size_t outputs = 1, const std::vector<float>& state = {},
                             bool frozen = false) {
  return TorchBundle(torch_script(forward, state, frozen), {"x"}, outputs);
}

inline std::vector<float> run_one(Runner& runner, const std::vector<float>& x, const std::vector<std::int64_t>& shape) {
  const Value input = view(x, shape);
  Value output;
  const Status status = runner.run({&input, 1}, {&output, 1});
  REQUIRE_MESSAGE(status.ok(), status.message());
  return floats(output);
}

inline void check_message(const Status& status, Code code, std::initializer_list<const char*> parts) {
  CHECK(status.code() == code);
  CHECK_MESSAGE(status.message().find('\n') == std::string::npos, status.message());
  for (const char* part : parts) CHECK_MESSAGE(status.message().find(part) != std::string::npos, status.message());
}

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_RUNNER_LIBTORCH_BUNDLE_HPP_
