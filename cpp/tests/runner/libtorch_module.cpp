#include "libtorch_module.hpp"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/headeronly/version.h>
#include <torch/library.h>

#include <sstream>

namespace edgebuild::testing {

namespace {

/// For modules that tell in how many threads their operators run.
TORCH_LIBRARY_FRAGMENT(aten, library) {  // What `torch.NAME` means in source that C++ compiles.
  library.def("edgebuild_threads(Tensor like) -> int",
              [](const at::Tensor&) { return std::int64_t{at::get_num_threads()}; });
}

}  // namespace

std::string torch_script(const std::string& methods, const std::vector<float>& state, bool frozen) {
  torch::jit::Module module("Net");
  module.register_attribute("training", c10::BoolType::get(), false);
  at::Tensor buffer = at::empty({static_cast<std::int64_t>(state.size())});
  for (std::size_t i = 0; i < state.size(); ++i) buffer.data_ptr<float>()[i] = state[i];
  module.register_buffer("state", buffer);
  module.define(methods);
  if (frozen) module = torch::jit::freeze(module);
  std::ostringstream bytes;
  module.save(bytes);
  return bytes.str();
}

std::string torch_script_with_lost_operator() {
  torch::Library library(torch::Library::FRAGMENT, "aten", std::nullopt, __FILE__, __LINE__);
  library.def("edgebuild_lost(Tensor x) -> Tensor", [](const at::Tensor& x) { return x.clone(); });
  return torch_script("def forward(self, x):\n  return torch.edgebuild_lost(x)\n");
}

std::string torch_version() { return TORCH_VERSION; }

}  // namespace edgebuild::testing
