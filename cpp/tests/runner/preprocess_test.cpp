// Preprocessing through the C++ and the C interface of the runner.

#include <doctest/doctest.h>

#include <algorithm>

#include "edgebuild/edgebuild.h"
#include "runner_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

/// y = x, float32[batch, 1, 1, 2].
const char* const kIdentity = R"({"format": "edgebuild-reference", "version": 1,
  "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 1, 1, 2]}],
  "constants": [],
  "nodes": [{"op": "relu", "inputs": ["x"], "output": "y"}],
  "outputs": ["y"]})";

std::string gray_bundle(RunnerBundle& bundle) {
  bundle.input("x", tensor_type("float32", {"batch", 1, 1, 2})).output("y", tensor_type("float32", {"batch", 1, 1, 2}));
  bundle.symbol("batch", 1, 4);
  bundle.manifest()["preprocessing"] = Json::parse(R"({"inputs": {"x": {"kind": "image", "resize": null,
    "crop": {"height": 1, "width": 2}, "interpolation": "bilinear", "channels": "gray", "layout": "nchw",
    "dtype": "float32", "scale": 0.5, "mean": [1], "std": [2]}}})");
  return bundle.write();
}

TEST_CASE("a runner makes images into its input, by C++ and by C") {
  RunnerBundle bundle("reference", kIdentity);
  const std::string path = gray_bundle(bundle);
  const std::vector<std::uint8_t> pixels = {2, 10, 20, 6, 2, 2};  // three of 1 x 2, of one channel
  const std::vector<std::int64_t> shape = {3, 1, 2, 1};
  const std::vector<float> expected = {0, 2, 4.5F, 1, 0, 0};

  Runner runner = load_or_die(path);
  const Result<Value> images = Value::view(EB_UINT8, shape, pixels.data(), pixels.size());
  REQUIRE(images.ok());
  const Result<Value> made = runner.preprocess("x", images.value());
  REQUIRE(made.ok());
  CHECK(std::vector<std::int64_t>(made.value().shape().begin(), made.value().shape().end()) ==
        std::vector<std::int64_t>{3, 1, 1, 2});
  CHECK(floats(made.value()) == expected);
  Value output;
  REQUIRE(runner.run({&made.value(), 1}, {&output, 1}).ok());
  CHECK(floats(output) == expected);
  CHECK(runner.preprocess("z", images.value()).status().code() == Code::kNotFound);
  CHECK(runner.preprocess("x", made.value()).status().code() == Code::kInvalidArgument);
  CHECK(runner.preprocess("x", Value()).status().code() == Code::kInvalidArgument);

  eb_runner* c_runner = nullptr;
  REQUIRE(eb_runner_load(path.c_str(), nullptr, &c_runner) == EB_OK);
  eb_value view = eb_value_view(EB_UINT8, shape.data(), shape.size(), pixels.data(), pixels.size());
  eb_value tensor = eb_value_none();
  REQUIRE(eb_runner_preprocess(c_runner, "x", &view, &tensor) == EB_OK);
  CHECK(tensor.byte_size == expected.size() * sizeof(float));
  CHECK(std::equal(expected.begin(), expected.end(), static_cast<const float*>(tensor.data)));
  eb_value_release(&tensor);
  CHECK(eb_runner_preprocess(c_runner, "z", &view, &tensor) == EB_NOT_FOUND);
  view.byte_size = 5;  // less than its shape needs
  CHECK(eb_runner_preprocess(c_runner, "x", &view, &tensor) == EB_INVALID_ARGUMENT);
  CHECK(tensor.kind == EB_KIND_NONE);
  eb_runner_free(c_runner);
}

}  // namespace
