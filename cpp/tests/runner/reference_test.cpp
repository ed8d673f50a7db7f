#include <doctest/doctest.h>

#include <atomic>
#include <random>
#include <thread>

#include "edgebuild/edgebuild.h"
#include "reference_model.hpp"
#include "runner_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

std::string message_of(Runner& runner, const Value& input) {
  Value output;
  const Status status = runner.run({&input, 1}, {&output, 1});
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(output.kind() == EB_KIND_NONE);
  return status.message();
}

TEST_CASE("a run gives what the model says, in bound and in allocated outputs, at every size of a dynamic axis") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  std::mt19937 random(7);
  std::uniform_real_distribution<float> real(-2, 2);
  for (const std::size_t batch : {1u, 4u, 2u, 2u, 3u}) {
    std::vector<float> x(batch * 3);
    for (float& value : x) value = real(random);
    const Value input = view(x, {static_cast<std::int64_t>(batch), 3});
    std::vector<float> y(8);
    Value bound = Value::bound(y.data(), y.size() * sizeof(float));
    REQUIRE(runner.run({&input, 1}, {&bound, 1}).ok());
    CHECK(floats(bound) == affine(x));
    Value allocated;
    REQUIRE(runner.run({&input, 1}, {&allocated, 1}).ok());
    CHECK(floats(allocated) == affine(x));
    REQUIRE(runner.run({&input, 1}, {&allocated, 1}).ok());  // What the last run allocated is released.
    CHECK(allocated.shape().front() == static_cast<std::int64_t>(batch));
  }
}

TEST_CASE("a size that is no multiple of its symbol's step is refused, and the step can be asked for") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  bundle.manifest()["signature"]["symbols"]["batch"] = {{"min", 2}, {"best", 4}, {"max", 8}, {"step", 2}};
  const std::string path = bundle.write();
  Runner runner = load_or_die(path);
  const std::vector<float> nine(9);
  const std::vector<float> x(18);
  CHECK(message_of(runner, view(nine, {3, 3})).find("axis 0 (batch) must be a multiple of 2") != std::string::npos);
  const Value input = view(x, {6, 3});
  Value output;
  CHECK(runner.run({&input, 1}, {&output, 1}).ok());
  eb_runner* handle = nullptr;
  REQUIRE(eb_runner_load(path.c_str(), nullptr, &handle) == EB_OK);
  CHECK(eb_runner_symbol_step(handle, "batch") == 2);
  CHECK(eb_runner_symbol_step(handle, "none") == 1);
  eb_runner_free(handle);
}

TEST_CASE("wrong inputs are refused before the engine sees them, naming tensor, expected and actual") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x(30);
  CHECK(message_of(runner, view(x, {10, 3})) ==
        "input 'x': expected float32[batch,3], got float32[10,3]: axis 0 (batch) must be 1 to 4");
  CHECK(message_of(runner, view(x, {3, 10})).find("axis 1 must be 3") != std::string::npos);
  CHECK(message_of(runner, view(x, {30})).find("the rank must be 2") != std::string::npos);
  const std::vector<std::int64_t> shape{2, 3};
  const Value integers = Value::allocate(EB_INT32, shape).value();
  CHECK(message_of(runner, integers).find("got int32[2,3]: the dtype must be float32") != std::string::npos);
  CHECK(message_of(runner, Value()).find("got nothing: a tensor is expected") != std::string::npos);
  Value damaged = view(x, {10, 3});
  damaged.raw().shape[0] = 2;
  CHECK(message_of(runner, damaged).find("24 bytes, it has 120") != std::string::npos);
  damaged.raw().byte_size = 24;
  damaged.raw().data = nullptr;
  CHECK(message_of(runner, damaged).find("null") != std::string::npos);
  Value output;
  CHECK(runner.run({}, {&output, 1}).message() == "the model takes 1 inputs, got 0");
}

TEST_CASE("a symbol is one number across all inputs") {
  RunnerBundle bundle("reference", R"({"format": "edgebuild-reference", "version": 1,
    "inputs": [{"name": "a", "dtype": "float32"}, {"name": "b", "dtype": "float32"}],
    "nodes": [{"op": "concat", "inputs": ["a", "b"], "axis": 1, "output": "y"}], "outputs": ["y"]})");
  bundle.input("a", tensor_type("float32", {"n", "p"})).input("b", tensor_type("float32", {"n", "q"}));
  bundle.output("y", tensor_type("float32", nullptr));
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> a{1, 2, 3, 4};
  const std::vector<float> b{5, 6};
  Value fitting[] = {view(a, {2, 2}), view(b, {2, 1})};
  Value output;
  REQUIRE(runner.run(fitting, {&output, 1}).ok());
  CHECK(floats(output) == std::vector<float>{1, 2, 5, 3, 4, 6});
  Value differing[] = {view(a, {2, 2}), view(b, {1, 2})};
  CHECK(runner.run(differing, {&output, 1}).message().find("input 'b'") == 0);
}

TEST_CASE("a bound output that is too small says what it needs and nothing else changes") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1, 2, 3, 4, 5, 6};
  const Value input = view(x, {2, 3});
  float y[3] = {7, 7, 7};
  Value output = Value::bound(y, sizeof(y));
  const Status status = runner.run({&input, 1}, {&output, 1});
  CHECK(status.code() == Code::kBufferTooSmall);
  CHECK(status.message() == "output 'y' needs 16 bytes, the bound buffer has 12");
  CHECK(output.byte_size() == 16);
  CHECK(y[0] == 7);
}

TEST_CASE("a deadline stops a run, and the runner works on") {
  RunnerBundle bundle("reference", R"({"format": "edgebuild-reference", "version": 1,
    "inputs": [{"name": "x", "dtype": "float32"}],
    "nodes": [{"op": "sleep", "inputs": ["x"], "milliseconds": 3600000, "output": "y"}], "outputs": ["y", "x"]})");
  bundle.input("x", tensor_type("float32", {1})).output("y", tensor_type("float32", {1}));
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1};
  const Value input = view(x, {1});
  for (const int milliseconds : {-5, 0, 20}) {
    Value output;
    RunOptions options;
    options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
    CHECK(runner.run({&input, 1}, {&output, 1}, options).code() == Code::kDeadlineExceeded);
  }
}

TEST_CASE("strings, sequences and absent values pass through, from a built-in and from a loaded backend") {
  for (const bool loaded : {false, true}) {
    RunnerBundle bundle("reference", R"({"format": "edgebuild-reference", "version": 1,
      "inputs": [{"name": "s", "dtype": "string"}, {"name": "q", "kind": "sequence", "dtype": "uint4"},
                 {"name": "o", "kind": "optional", "dtype": "float32"}],
      "nodes": [{"op": "identity", "inputs": ["s"], "output": "s2"}, {"op": "identity", "inputs": ["q"], "output": "q2"},
                {"op": "identity", "inputs": ["o"], "output": "o2"}], "outputs": ["s2", "q2", "o2"]})");
    const Json sequence = {{"kind", "sequence"}, {"element", tensor_type("uint4", nullptr)}};
    const Json optional = {{"kind", "optional"}, {"element", tensor_type("float32", nullptr)}};
    bundle.input("s", tensor_type("string", {"n"})).input("q", sequence).input("o", optional);
    bundle.output("s2", tensor_type("string", {"n"})).output("q2", sequence).output("o2", optional);
    if (loaded) bundle.variant()["plugin"] = bundle.library(EDGEBUILD_TEST_REFERENCE_PLUGIN);
    Runner runner = load_or_die(bundle.write());
    const std::vector<std::int64_t> two{2};
    const std::vector<std::string> words{"\xC3\xA4", std::string("a\0b", 3)};
    std::vector<Value> items;
    const std::vector<std::int64_t> five{5};
    items.push_back(Value::allocate(EB_UINT4, five).value());
    Value inputs[3] = {Value::strings(two, words).value(), Value::sequence(std::move(items), EB_UINT4), Value()};
    Value outputs[3];
    const Status status = runner.run(inputs, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    const auto* const strings = static_cast<const eb_string*>(outputs[0].data());
    CHECK(std::string(strings[0].data, strings[0].size) == words[0]);
    CHECK(std::string(strings[1].data, strings[1].size) == words[1]);
    REQUIRE(outputs[1].items().size() == 1);
    CHECK(outputs[1].items()[0].byte_size == 3);
    CHECK(outputs[2].kind() == EB_KIND_NONE);
  }
}

TEST_CASE("any number of threads run one Runner") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (unsigned seed = 0; seed < 8; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 200; ++i) {
        const std::size_t batch = 1 + random() % 4;
        std::vector<float> x(batch * 3);
        for (float& value : x) value = static_cast<float>(random() % 100) - 50;
        const Value input = view(x, {static_cast<std::int64_t>(batch), 3});
        Value output;
        if (!runner.run({&input, 1}, {&output, 1}).ok() || floats(output) != affine(x)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("profiled runs add up by node") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  CHECK(runner.profile().value().empty());
  const std::vector<float> x{1, 2, 3};
  const Value input = view(x, {1, 3});
  RunOptions options;
  options.profile = true;
  for (int i = 0; i < 3; ++i) {
    Value output;
    REQUIRE(runner.run({&input, 1}, {&output, 1}, options).ok());
  }
  const std::vector<ProfileEntry> profile = runner.profile().value();
  REQUIRE(profile.size() == 3);
  CHECK(profile[0].node == "m");
  CHECK(profile[0].op_type == "matmul");
  CHECK(profile[2].calls == 3);
}

TEST_CASE("a model file that is damaged is refused and takes nothing down") {
  const std::string good = kAffine;
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    for (int k = 0; k < 3; ++k) bad[random() % bad.size()] = static_cast<char>("0123456789[]{},-\"a"[random() % 18]);
    RunnerBundle bundle("reference", bad);
    describe_affine(bundle);
    Result<Runner> runner = Runner::load(bundle.write());
    if (!runner.ok()) continue;
    const std::vector<float> x{1, 2, 3};
    const Value input = view(x, {1, 3});
    Value output;
    static_cast<void>(runner.value().run({&input, 1}, {&output, 1}));
  }
}

TEST_CASE("the C API does the same") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  eb_runner* runner = nullptr;
  CHECK(eb_runner_load("/nowhere", nullptr, &runner) == EB_NOT_FOUND);
  CHECK(std::string(eb_last_error()).find("/nowhere") != std::string::npos);
  CHECK(runner == nullptr);
  REQUIRE(eb_runner_load(bundle.write().c_str(), nullptr, &runner) == EB_OK);
  CHECK(std::string(eb_runner_input_type(runner, 0)) == "float32[batch,3]");
  CHECK(std::string(eb_runner_input_symbol(runner, 0, 0)) == "batch");
  std::int64_t range[3];
  REQUIRE(eb_runner_symbol_range(runner, "batch", &range[0], &range[1], &range[2]) == EB_OK);
  CHECK(range[2] == 4);
  eb_io_info info{};
  info.struct_size = sizeof(info);
  REQUIRE(eb_runner_output(runner, 0, &info) == EB_OK);
  CHECK(info.shape[1] == 2);
  CHECK(eb_runner_output(runner, 1, &info) == EB_NOT_FOUND);
  const std::vector<float> x{1, 2, 3, 4, 5, 6};
  const std::int64_t shape[] = {2, 3};
  const eb_value input = eb_value_view(EB_FLOAT32, shape, 2, x.data(), sizeof(float) * 6);
  eb_value output = eb_value_none();
  REQUIRE(eb_runner_run(runner, &input, 1, &output, 1, nullptr) == EB_OK);
  const auto* const y = static_cast<const float*>(output.data);
  CHECK(std::vector<float>(y, y + 4) == affine(x));
  eb_value_release(&output);
  eb_value_release(&output);
  CHECK(eb_tensor_bytes(EB_INT4, shape, 2) == 3);
  eb_runner_free(runner);
  eb_runner_free(nullptr);
}

}  // namespace
