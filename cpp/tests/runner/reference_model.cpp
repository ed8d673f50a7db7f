#include "reference_model.hpp"

#include <algorithm>

namespace edgebuild::testing {

const char* const kAffine = R"({"format": "edgebuild-reference", "version": 1,
  "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 3]}],
  "constants": [{"name": "w", "dtype": "float32", "shape": [3, 2], "data": [1, -1, 0.5, 2, -3, 1]},
                {"name": "b", "dtype": "float32", "shape": [2], "data": [0.25, -1]}],
  "nodes": [{"op": "matmul", "inputs": ["x", "w"], "output": "m"},
            {"op": "add", "inputs": ["m", "b"], "output": "s"},
            {"op": "relu", "inputs": ["s"], "output": "y"}],
  "outputs": ["y"]})";

void describe_affine(RunnerBundle& bundle) {
  bundle.input("x", tensor_type("float32", {"batch", 3})).output("y", tensor_type("float32", {"batch", 2}));
  bundle.symbol("batch", 1, 4);
}

std::vector<float> affine(const std::vector<float>& x) {
  const float w[3][2] = {{1, -1}, {0.5F, 2}, {-3, 1}};
  const float b[2] = {0.25F, -1};
  std::vector<float> y;
  for (std::size_t row = 0; row < x.size() / 3; ++row) {
    for (std::size_t column = 0; column < 2; ++column) {
      float sum = 0;
      for (std::size_t k = 0; k < 3; ++k) sum += x[row * 3 + k] * w[k][column];
      y.push_back(std::max(sum + b[column], 0.0F));
    }
  }
  return y;
}

const char* const kSleep = R"({"format": "edgebuild-reference", "version": 1,
  "inputs": [{"name": "x", "dtype": "float32"}],
  "nodes": [{"op": "sleep", "inputs": ["x"], "milliseconds": 3600000, "output": "y"}], "outputs": ["y", "x"]})";

void describe_sleep(RunnerBundle& bundle) {
  bundle.input("x", tensor_type("float32", {1})).output("y", tensor_type("float32", {1}));
}

}  // namespace edgebuild::testing
