// A model that AOTInductor compiled: a shared library of kernels for one kind of CPU, with its weights.

#ifndef EDGEBUILD_BACKENDS_LIBTORCH_COMPILED_HPP_
#define EDGEBUILD_BACKENDS_LIBTORCH_COMPILED_HPP_

#include <ATen/core/Tensor.h>
#include <torch/csrc/inductor/aoti_runner/model_container_runner_cpu.h>

#include <memory>
#include <string_view>
#include <vector>

#include "common/plugin.hpp"

namespace edgebuild::libtorch {

class Compiled {
 public:
  /// Whether a model file is one: it begins like a library, not like an archive.
  [[nodiscard]] static bool is_one(const eb_file& file) noexcept;

  /// Loads the very bytes that were hashed. May throw what LibTorch throws.
  static eb_status* load(const eb_host_api& host, const eb_file& file, std::unique_ptr<Compiled>* out);

  /// Threads: any number at once. May throw what LibTorch throws.
  [[nodiscard]] std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs) { return runner_->run(inputs); }

 private:
  Compiled() = default;

  std::unique_ptr<torch::inductor::AOTIModelContainerRunnerCpu> runner_;
};

}  // namespace edgebuild::libtorch

#endif  // EDGEBUILD_BACKENDS_LIBTORCH_COMPILED_HPP_
