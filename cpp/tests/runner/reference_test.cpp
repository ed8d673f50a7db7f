#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "edgebuild/edgebuild.h"
#include "runner_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

/// y = relu(x * w + b), x float32[batch, 3].
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

/// Sleeps for an hour unless it is stopped.
void describe_sleep(RunnerBundle& bundle) {
  bundle.input("x", tensor_type("float32", {1})).output("y", tensor_type("float32", {1}));
}

const char* const kSleep = R"({"format": "edgebuild-reference", "version": 1,
  "inputs": [{"name": "x", "dtype": "float32"}],
  "nodes": [{"op": "sleep", "inputs": ["x"], "milliseconds": 3600000, "output": "y"}], "outputs": ["y", "x"]})";

TEST_CASE("one cancellation stops the runs that have it, of two runners, and no other") {
  RunnerBundle bundle("reference", kSleep);
  describe_sleep(bundle);
  const std::string path = bundle.write();
  Runner first = load_or_die(path);
  Runner second = load_or_die(path);
  const std::vector<float> x{1};
  Cancellation cancellation;
  RunOptions stoppable;
  stoppable.cancellation = &cancellation;
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> cancelled{0};
    std::atomic<bool> other_ended{false};
    std::vector<std::thread> threads;
    for (Runner* runner : {&first, &first, &second}) {
      threads.emplace_back([&, runner] {
        const Value input = view(x, {1});
        Value output;
        cancelled += runner->run({&input, 1}, {&output, 1}, stoppable).code() == Code::kCancelled;
      });
    }
    Cancellation of_another;
    std::thread another([&] {
      const Value input = view(x, {1});
      Value output;
      RunOptions options;
      options.cancellation = &of_another;
      CHECK(first.run({&input, 1}, {&output, 1}, options).code() == Code::kCancelled);
      other_ended = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20 * round));  // before, while and after the runs begin
    cancellation.cancel();
    CHECK(cancellation.cancelled());
    for (std::thread& thread : threads) thread.join();
    CHECK(cancelled == 3);
    CHECK(!other_ended);
    of_another.cancel();
    another.join();

    const Value input = view(x, {1});
    Value output;
    const Status late = first.run({&input, 1}, {&output, 1}, stoppable);
    CHECK(late.code() == Code::kCancelled);
    CHECK(late.message() == "the run was cancelled before it began");
    cancellation.reset();
    CHECK(!cancellation.cancelled());
    RunOptions options = stoppable;
    options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
    CHECK(first.run({&input, 1}, {&output, 1}, options).code() == Code::kDeadlineExceeded);  // so it began
  }
}

TEST_CASE("a run that is over no longer hears its cancellation") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1, 2, 3};
  const Value input = view(x, {1, 3});
  Value output;
  {
    Cancellation cancellation;
    RunOptions options;
    options.cancellation = &cancellation;
    CHECK(runner.run({&input, 1}, {&output, 1}, options).ok());
    cancellation.cancel();
  }
  CHECK(runner.run({&input, 1}, {&output, 1}).ok());
  CHECK(floats(output) == affine(x));
}

TEST_CASE("a state folder that is a file is refused, one that is not there yet is not made") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  const std::string path = bundle.write();
  LoadOptions options;
  options.state_dir = path + "/manifest.json";
  const Result<Runner> refused = Runner::load(path, options);
  REQUIRE(!refused.ok());
  CHECK(refused.status().code() == Code::kUsage);
  CHECK(refused.status().message() ==
        "state folder " + options.state_dir + ": expected a folder, it is something else");
  options.state_dir = path + "-state";
  CHECK(Runner::load(path, options).ok());
  CHECK(!std::filesystem::exists(options.state_dir));
}

TEST_CASE("the C API cancels") {
  RunnerBundle bundle("reference", kSleep);
  describe_sleep(bundle);
  eb_runner* runner = nullptr;
  REQUIRE(eb_runner_load(bundle.write().c_str(), nullptr, &runner) == EB_OK);
  eb_cancellation* const cancellation = eb_cancellation_create();
  REQUIRE(cancellation != nullptr);
  const float x = 1;
  const std::int64_t shape[1] = {1};
  const eb_value input = eb_value_view(EB_FLOAT32, shape, 1, &x, sizeof(x));
  eb_value output = eb_value_none();
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    eb_cancellation_cancel(cancellation);
  });
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, nullptr, cancellation) == EB_CANCELLED);
  stopper.join();
  CHECK(std::string(eb_last_error()) == "the run was cancelled");
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, nullptr, cancellation) == EB_CANCELLED);
  eb_cancellation_reset(cancellation);
  eb_run_options options{};
  options.struct_size = sizeof(options);
  options.deadline_ns = 1;
  CHECK(eb_runner_run_cancellable(runner, &input, 1, &output, 1, &options, cancellation) == EB_DEADLINE_EXCEEDED);
  CHECK(output.kind == EB_KIND_NONE);
  eb_cancellation_free(cancellation);
  eb_cancellation_free(nullptr);
  eb_runner_free(runner);
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

TEST_CASE("the first variant that can run here wins, and the others' reasons are kept") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  static_cast<void>(bundle.add_variant("second"));
  bundle.variant()["requires"]["cpu_features"] = {"antigravity"};
  const std::string path = bundle.write();
  LoadOptions options;
  std::vector<std::string> lines;
  options.log = [&](eb_severity, std::string_view line) { lines.emplace_back(line); };
  Runner runner = load_or_die(path, options);
  CHECK(runner.variant_name() == "second");
  REQUIRE(runner.passed_over().size() == 1);
  CHECK(runner.passed_over()[0].reason == "this CPU lacks antigravity");
  CHECK(lines == std::vector<std::string>{"variant first is passed over: this CPU lacks antigravity"});
  options.allow_fallback = false;
  CHECK(Runner::load(path, options).status().code() == Code::kIncompatible);
  options.variant = "third";
  const Status unknown = Runner::load(path, options).status();
  CHECK(unknown.code() == Code::kUsage);
  CHECK(unknown.message().find("no variant 'third'; it has first, second") != std::string::npos);
}

TEST_CASE("an option that the backend does not know is a usage error") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  LoadOptions options;
  options.options["speed"] = "11";
  CHECK(Runner::load(bundle.write(), options).status().code() == Code::kUsage);
}

TEST_CASE("a bundle for another architecture is refused, naming both") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  bundle.manifest()["target"]["arch"] =
      std::string(bundle.manifest()["target"]["arch"]) == "riscv64" ? "aarch64" : "riscv64";
  const Status status = Runner::load(bundle.write()).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(status.message().find("this process is") != std::string::npos);
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
