// The backend through the runner: which variant serves, and what a run gives.

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <thread>

#include "double.hpp"
#include "runner/access.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

LoadOptions options_for(const Double& control) {
  LoadOptions options;
  options.state_dir = control.state();
  options.log = [](eb_severity, std::string_view) {};
  return options;
}

/// Builds and accepts the plan of the variant "trt".
void prepare(const std::string& path, const Double& control) {
  Result<bundle::Bundle> bundle = bundle::Bundle::open(path);
  REQUIRE(bundle.ok());
  runner::Preparing preparing;
  preparing.mode = EB_PREPARATION_MAKE;
  Result<std::optional<Runner>> made = RunnerAccess::prepare(bundle.value(), "trt", options_for(control), preparing);
  if (!made.ok()) FAIL(made.status().message());
  REQUIRE(made.value());
  REQUIRE(RunnerAccess::settle(*made.value(), true).ok());
}

std::string reason(const std::string& path, const LoadOptions& options) {
  const Runner runner = load_or_die(path, options);
  CHECK(runner.variant_name() == "cpu");
  return runner.passed_over().empty() ? std::string() : runner.passed_over()[0].reason;
}

TEST_CASE("until a plan is ready the next variant serves and says so; then the plan does") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  const std::string why = reason(path, options_for(control));
  CHECK(why.find("there is no plan for this model on this machine yet; `edgerun prepare BUNDLE` builds it") == 0);
  CHECK(control.builds() == 0);
  prepare(path, control);
  Runner runner = load_or_die(path, options_for(control));
  CHECK(runner.variant_name() == "trt");
  CHECK(runner.engine_version() == "10.3.0.26");
  const std::vector<float> x = {1, -2, 3, 4, 5, 6};
  std::vector<Value> inputs;
  inputs.push_back(view(x, {2, 3}));
  std::vector<Value> outputs(1);
  REQUIRE(runner.run(inputs, outputs).ok());
  CHECK(floats(outputs[0]) == std::vector<float>{2, -4, 6, 8, 10, 12});
  prepare(path, control);
  CHECK(control.builds() == 1);
}

TEST_CASE("a plan of another TensorRT or GPU, and one that does not load, are passed over with the reason") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  prepare(path, control);
  control.set("version", "10.5.0.18");
  CHECK(reason(path, options_for(control)).find("made with tensorrt 10.3.0.26, here is 10.5.0.18") !=
        std::string::npos);
  prepare(path, control);
  CHECK(control.builds() == 2);
  control.set("gpu", "Thor");
  CHECK(reason(path, options_for(control)).find("made with gpu Double, 8.7, 16 SMs, here is Thor") !=
        std::string::npos);
  control.unset("gpu");
  CHECK(load_or_die(path, options_for(control)).variant_name() == "trt");
  control.set("stale", "serialized with a device of another kind");
  CHECK(reason(path, options_for(control)).find("the plan does not load: serialized with") != std::string::npos);
}

TEST_CASE("what is missing on the machine is named, and the next variant serves") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  control.set("none", "1");
  CHECK(reason(path, options_for(control)) == "there is no CUDA device");
  control.unset("none");
  control.set("absent", "1");
  CHECK(reason(path, options_for(control)).find("TensorRT 10 can't be opened") == 0);
  LoadOptions strict = options_for(control);
  strict.allow_fallback = false;
  CHECK(Runner::load(path, strict).status().code() == Code::kIncompatible);
}

TEST_CASE("a model with weights in files of their own is passed over") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  static_cast<void>(double_bundle(bundle));
  bundle.variant()["data"] = {"model/in.bin"};
  CHECK(reason(bundle.write(), options_for(control)).find("has 1 beside it") != std::string::npos);
}

TEST_CASE("an output whose size only the run tells is given whole, and a small buffer is told the size") {
  const Double control;
  RunnerBundle bundle("tensorrt", "positive");
  static_cast<void>(double_bundle(bundle));
  bundle.manifest()["signature"]["outputs"][0]["type"] = tensor_type("float32", {nullptr});
  bundle.manifest()["goldens"] = Json::array();
  const std::string path = bundle.write();
  prepare(path, control);
  LoadOptions options = options_for(control);
  options.variant = "trt";
  Runner runner = load_or_die(path, options);
  const std::vector<float> x = {1, -2, 3, -4, 5, 0};
  std::vector<Value> inputs;
  inputs.push_back(view(x, {2, 3}));
  std::vector<Value> outputs(1);
  REQUIRE(runner.run(inputs, outputs).ok());
  CHECK(floats(outputs[0]) == std::vector<float>{1, 3, 5});
  std::array<float, 3> buffer{};
  outputs[0] = Value::bound(buffer.data(), 8);
  const Status small = runner.run(inputs, outputs);
  CHECK(small.code() == Code::kBufferTooSmall);
  CHECK(outputs[0].byte_size() == 12);
  outputs[0] = Value::bound(buffer.data(), sizeof(buffer));
  REQUIRE(runner.run(inputs, outputs).ok());
  CHECK(buffer == std::array<float, 3>{1, 3, 5});
}

TEST_CASE("an output that the engine writes on the host arrives") {
  const Double control;
  RunnerBundle bundle("tensorrt", "shape");
  static_cast<void>(double_bundle(bundle));
  bundle.manifest()["signature"]["outputs"][0]["type"] = tensor_type("int64", {2});
  bundle.manifest()["goldens"] = Json::array();
  const std::string path = bundle.write();
  prepare(path, control);
  LoadOptions options = options_for(control);
  options.variant = "trt";
  Runner runner = load_or_die(path, options);
  const std::vector<float> x(12);
  std::vector<Value> inputs;
  inputs.push_back(view(x, {4, 3}));
  std::array<std::int64_t, 2> shape{};
  std::vector<Value> outputs;
  outputs.push_back(Value::bound(shape.data(), sizeof(shape)));
  REQUIRE(runner.run(inputs, outputs).ok());
  CHECK(shape == std::array<std::int64_t, 2>{4, 3});
}

TEST_CASE("a shape outside of the profile names the input, and the Runner stays usable, from any thread") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  prepare(path, control);
  Runner runner = load_or_die(path, options_for(control));
  const std::vector<float> large(27);
  std::vector<Value> inputs;
  inputs.push_back(view(large, {9, 3}));
  std::vector<Value> outputs(1);
  const Status status = runner.run(inputs, outputs);
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(status.message().find("input 'x'") != std::string::npos);
  std::atomic<int> right = 0;
  const auto work = [&] {
    for (int i = 0; i < 50; ++i) {
      const std::vector<float> x = {static_cast<float>(i), 1, 2};
      std::vector<Value> in;
      in.push_back(view(x, {1, 3}));
      std::vector<Value> out(1);
      if (runner.run(in, out).ok() && floats(out[0]) == std::vector<float>{2 * x[0], 2, 4}) ++right;
    }
  };
  std::thread a(work);
  std::thread b(work);
  a.join();
  b.join();
  CHECK(right == 100);
}

TEST_CASE("values on the device are used where they lie: nothing is copied") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  prepare(path, control);
  Runner runner = load_or_die(path, options_for(control));
  void* const cudart = dlopen("libcudart.so.13", RTLD_NOW);
  REQUIRE(cudart != nullptr);
  const auto copies = reinterpret_cast<int (*)()>(dlsym(cudart, "edgebuild_double_copies"));
  REQUIRE(copies != nullptr);
  alignas(256) std::array<float, 67> x{};
  alignas(256) std::array<float, 67> y{};
  const auto run_at = [&](std::size_t offset) {
    for (std::size_t i = 0; i < 3; ++i) x[offset + i] = static_cast<float>(i + 1);
    const std::int64_t shape[] = {1, 3};
    eb_value input = Value::view(EB_FLOAT32, shape, x.data() + offset, 12).value().raw();
    input.device_type = EB_DEVICE_CUDA;
    eb_value output = Value::bound(y.data() + offset, 12).raw();
    output.device_type = EB_DEVICE_CUDA;
    const int before = copies();
    REQUIRE(RunnerAccess::run(runner, {&input, 1}, {&output, 1}, {}).ok());
    CHECK(std::vector<float>(&y[offset], &y[offset] + 3) == std::vector<float>{2, 4, 6});
    return copies() - before;
  };
  CHECK(run_at(0) == 0);
  CHECK(run_at(64) == 0);
  CHECK(run_at(1) == 2);  // TensorRT wants addresses that are multiples of 256.
}

TEST_CASE("runs of the same shapes and addresses are queued as one graph, and any others as they are") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  static_cast<void>(double_bundle(bundle));
  bundle.variant()["options"]["cuda_graph"] = "1";
  const std::string path = bundle.write();
  prepare(path, control);
  void* const cudart = dlopen("libcudart.so.13", RTLD_NOW);
  REQUIRE(cudart != nullptr);
  const auto launches = reinterpret_cast<int (*)()>(dlsym(cudart, "edgebuild_double_launches"));
  alignas(256) std::array<float, 64> x{};
  alignas(256) std::array<float, 64> y{};
  const auto run = [&](Runner& runner, std::int64_t rows, float first) {
    x.fill(first);
    y.fill(0);
    const std::int64_t shape[] = {rows, 3};
    eb_value input = Value::view(EB_FLOAT32, shape, x.data(), static_cast<std::size_t>(rows) * 12).value().raw();
    input.device_type = EB_DEVICE_CUDA;
    eb_value output = Value::bound(y.data(), 64).raw();
    output.device_type = EB_DEVICE_CUDA;
    const int before = launches();
    REQUIRE(RunnerAccess::run(runner, {&input, 1}, {&output, 1}, {}).ok());
    CHECK(y[0] == 2 * first);
    CHECK(y[static_cast<std::size_t>(rows) * 3 - 1] == 2 * first);
    return launches() - before;
  };
  {
    Runner runner = load_or_die(path, options_for(control));
    CHECK(run(runner, 1, 3) == 0);  // TensorRT sets itself up.
    CHECK(run(runner, 1, 4) == 1);
    CHECK(run(runner, 1, 5) == 1);  // What lies there now is read, not what was recorded with.
    CHECK(run(runner, 2, 6) == 0);
    CHECK(run(runner, 2, 7) == 1);
    CHECK(run(runner, 1, 8) == 0);
  }
  control.set("ungraphed", "1");
  Runner runner = load_or_die(path, options_for(control));
  for (int i = 0; i < 4; ++i) CHECK(run(runner, 1, static_cast<float>(i)) == 0);
}

TEST_CASE("outputs whose sizes only the run tells, or that lie on the host, are never recorded") {
  const Double control;
  for (const char* const program : {"positive", "shape"}) {
    RunnerBundle bundle("tensorrt", program);
    static_cast<void>(double_bundle(bundle));
    bundle.variant()["options"]["cuda_graph"] = "1";
    const bool shape = program[0] == 's';
    bundle.manifest()["signature"]["outputs"][0]["type"] =
        shape ? tensor_type("int64", {2}) : tensor_type("float32", {nullptr});
    bundle.manifest()["goldens"] = Json::array();
    const std::string path = bundle.write();
    prepare(path, control);
    LoadOptions options = options_for(control);
    options.variant = "trt";
    Runner runner = load_or_die(path, options);
    for (int i = 1; i < 4; ++i) {
      const std::vector<float> x(6, static_cast<float>(i));
      std::vector<Value> inputs;
      inputs.push_back(view(x, {2, 3}));
      std::vector<Value> outputs(1);
      REQUIRE(runner.run(inputs, outputs).ok());
      CHECK(outputs[0].byte_size() == (shape ? 16 : 24));
    }
  }
}

}  // namespace
