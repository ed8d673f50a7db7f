// The ONNX Runtime backend against the real library, which EDGEBUILD_TEST_ONNXRUNTIME names.

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "onnx_model.hpp"
#include "runner_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

/// The library's path, or nothing: then the test is skipped, and says so.
const char* engine() {
  const char* const path = std::getenv("EDGEBUILD_TEST_ONNXRUNTIME");
  if (path == nullptr) MESSAGE("skipped: EDGEBUILD_TEST_ONNXRUNTIME does not name libonnxruntime.so");
  return path;
}

/// The version behind the last ".so." of the library's name.
std::string version_of(const std::string& path) { return path.substr(path.rfind(".so.") + 4); }

void use_engine(RunnerBundle& bundle, const char* path) {
  bundle.variant()["engine"] = {{"name", "onnxruntime"},
                                {"version", version_of(path)},
                                {"linkage", "bundled"},
                                {"library", bundle.library(path)}};
  bundle.variant()["options"] = {{"intra_op_threads", "1"}};
}

/// y = relu(x + x), float32[n, 2].
std::string relu_model() {
  const std::string type = onnx::symbolic(EB_FLOAT32, {"n", "2"});
  return onnx::model(onnx::graph({onnx::node("Add", {"x", "x"}, {"s"}), onnx::node("Relu", {"s"}, {"y"})},
                                 {onnx::value("x", type)}, {onnx::value("y", type)}));
}

void describe_relu(RunnerBundle& bundle, const char* path) {
  bundle.input("x", tensor_type("float32", {"n", 2})).output("y", tensor_type("float32", {"n", 2}));
  use_engine(bundle, path);
}

TEST_CASE("ONNX Runtime: bound and allocated outputs, and shapes that change") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  describe_relu(bundle, path);
  Runner runner = load_or_die(bundle.write());
  CHECK(runner.engine_version() == version_of(path));
  std::vector<float> x{1, -2, 3, -4, 0, 0.5F};
  float y[6] = {};
  Value bound = Value::bound(y, sizeof(y));
  for (const std::int64_t rows : {1, 3, 3, 3, 2, 0, 3}) {
    for (float& value : x) value += 0.25F;  // The same buffer with another content.
    const std::vector<float> now(x.begin(), x.begin() + rows * 2);
    Value input = view(now, {rows, 2});
    if (rows == 3) input = view(x, {3, 2});
    const Status status = runner.run({&input, 1}, {&bound, 1});
    REQUIRE_MESSAGE(status.ok(), status.message());
    REQUIRE(bound.shape().front() == rows);
    for (std::size_t i = 0; i < now.size(); ++i) CHECK(y[i] == std::max(2 * now[i], 0.0F));
    Value allocated;
    REQUIRE(runner.run({&input, 1}, {&allocated, 1}).ok());
    CHECK(floats(allocated) == floats(bound));
  }
  Value small = Value::bound(y, 4);
  const Value input = view(x, {3, 2});
  CHECK(runner.run({&input, 1}, {&small, 1}).code() == Code::kBufferTooSmall);
  CHECK(small.byte_size() == 24);
}

TEST_CASE("ONNX Runtime: a shape that depends on the values can be bound") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", onnx::model(onnx::graph({onnx::node("NonZero", {"x"}, {"y"})},
                                                             {onnx::value("x", onnx::tensor(EB_FLOAT32, {4}))},
                                                             {onnx::value("y", onnx::tensor(EB_INT64, {1, -1}))})));
  bundle.input("x", tensor_type("float32", {4})).output("y", tensor_type("int64", {1, nullptr}));
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  std::int64_t y[4];
  Value output = Value::bound(y, sizeof(y));
  const std::vector<std::vector<float>> inputs{{1, 0, 0, 1}, {1, 0, 0, 2}, {1, 1, 0, 1}, {0, 0, 0, 0}, {1, 1, 1, 1}};
  for (const std::vector<float>& x : inputs) {
    const Value input = view(x, {4});
    const Status status = runner.run({&input, 1}, {&output, 1});
    REQUIRE_MESSAGE(status.ok(), status.message());
    std::vector<std::int64_t> expected;
    for (std::size_t i = 0; i < 4; ++i) {
      if (x[i] != 0) expected.push_back(static_cast<std::int64_t>(i));
    }
    REQUIRE(output.shape()[1] == static_cast<std::int64_t>(expected.size()));
    CHECK(std::vector<std::int64_t>(y, y + expected.size()) == expected);
  }
}

TEST_CASE("ONNX Runtime: a deadline or a cancellation ends an endless loop, and the runner works on") {
  const char* const path = engine();
  if (path == nullptr) return;
  const std::string scalar = onnx::tensor(EB_BOOL, {});
  const std::string type = onnx::tensor(EB_FLOAT32, {1});
  const std::string body =
      onnx::graph({onnx::node("Identity", {"c"}, {"c2"}), onnx::node("Identity", {"v"}, {"v2"})},
                  {onnx::value("i", onnx::tensor(EB_INT64, {})), onnx::value("c", scalar), onnx::value("v", type)},
                  {onnx::value("c2", scalar), onnx::value("v2", type)});
  RunnerBundle bundle(
      "onnxruntime",
      onnx::model(onnx::graph({onnx::node("Loop", {"", "go", "x"}, {"y"}, {onnx::attribute("body", body)})},
                              {onnx::value("go", scalar), onnx::value("x", type)}, {onnx::value("y", type)})));
  bundle.input("go", tensor_type("bool", Json::array())).input("x", tensor_type("float32", {1}));
  bundle.output("y", tensor_type("float32", {1}));
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  std::uint8_t go = 1;
  const std::vector<float> x{3};
  Value inputs[2] = {Value::view(EB_BOOL, {}, &go, 1).value(), view(x, {1})};
  Value output;
  for (int i = 0; i < 3; ++i) {
    RunOptions options;
    options.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(30);
    go = 1;
    CHECK(runner.run(inputs, {&output, 1}, options).code() == Code::kDeadlineExceeded);
    Cancellation cancellation;
    RunOptions stoppable;
    stoppable.cancellation = &cancellation;
    std::thread stopper([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(10 * i));
      cancellation.cancel();
    });
    CHECK(runner.run(inputs, {&output, 1}, stoppable).code() == Code::kCancelled);
    stopper.join();
    go = 0;
    const Status status = runner.run(inputs, {&output, 1});
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(floats(output) == x);
  }
}

TEST_CASE("ONNX Runtime: external data come from memory") {
  const char* const path = engine();
  if (path == nullptr) return;
  const std::string type = onnx::tensor(EB_FLOAT32, {2});
  RunnerBundle bundle("onnxruntime",
                      onnx::model(onnx::graph({onnx::node("Add", {"x", "w"}, {"y"})}, {onnx::value("x", type)},
                                              {onnx::value("y", type)}, {onnx::external("w", 2, "weights.bin")})));
  bundle.input("x", tensor_type("float32", {2})).output("y", tensor_type("float32", {2}));
  const float weights[2] = {10, 20};
  bundle.data_file("weights.bin", std::string(reinterpret_cast<const char*>(weights), sizeof(weights)));
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1, 2};
  const Value input = view(x, {2});
  Value output;
  REQUIRE(runner.run({&input, 1}, {&output, 1}).ok());
  CHECK(floats(output) == std::vector<float>{11, 22});
}

TEST_CASE("ONNX Runtime: strings, sequences and optionals, also empty and absent") {
  const char* const path = engine();
  if (path == nullptr) return;
  const std::string text = onnx::tensor(EB_STRING, {-1});
  const std::string list = onnx::sequence(onnx::tensor(EB_FLOAT32, {-1}));
  const std::string maybe = onnx::optional(onnx::tensor(EB_FLOAT32, {-1}));
  RunnerBundle bundle(
      "onnxruntime",
      onnx::model(onnx::graph({onnx::node("Identity", {"s"}, {"s2"}), onnx::node("SequenceLength", {"q"}, {"q2"}),
                               onnx::node("OptionalHasElement", {"o"}, {"o2"}), onnx::node("Identity", {"q"}, {"q3"})},
                              {onnx::value("s", text), onnx::value("q", list), onnx::value("o", maybe)},
                              {onnx::value("s2", text), onnx::value("q2", onnx::tensor(EB_INT64, {})),
                               onnx::value("o2", onnx::tensor(EB_BOOL, {})), onnx::value("q3", list)})));
  const Json sequence = {{"kind", "sequence"}, {"element", tensor_type("float32", {nullptr})}};
  const Json optional = {{"kind", "optional"}, {"element", tensor_type("float32", {nullptr})}};
  bundle.input("s", tensor_type("string", {"n"})).input("q", sequence).input("o", optional);
  bundle.output("s2", tensor_type("string", {"n"})).output("q2", tensor_type("int64", Json::array()));
  bundle.output("o2", tensor_type("bool", Json::array())).output("q3", sequence);
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  const std::vector<std::int64_t> two{2};
  const std::vector<std::string> words{"", "\xC3\xBC"};
  const std::vector<float> x{1, 2, 3};
  for (std::int64_t count = 0; count < 3; ++count) {
    std::vector<Value> items;
    for (std::int64_t i = 0; i < count; ++i) items.push_back(view(x, {3}));
    Value inputs[3] = {Value::strings(two, words).value(), Value::sequence(std::move(items), EB_FLOAT32), Value()};
    for (const bool present : {false, true, true, false, false, true}) {
      Value outputs[4];
      inputs[2] = present ? view(x, {3}) : Value();
      const Status status = runner.run(inputs, outputs);
      REQUIRE_MESSAGE(status.ok(), status.message());
      const auto* const strings = static_cast<const eb_string*>(outputs[0].data());
      CHECK(strings[0].size == 0);
      CHECK(std::string(strings[1].data, strings[1].size) == words[1]);
      CHECK(*static_cast<const std::int64_t*>(outputs[1].data()) == count);
      CHECK(*static_cast<const std::uint8_t*>(outputs[2].data()) == (present ? 1 : 0));
      REQUIRE(outputs[3].items().size() == static_cast<std::size_t>(count));
      if (count > 0) CHECK(std::memcmp(outputs[3].items()[0].data, x.data(), 12) == 0);
    }
  }
}

TEST_CASE("ONNX Runtime: an input that the model can't do without may not be absent") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  const Json optional = {{"kind", "optional"}, {"element", tensor_type("float32", {"n", 2})}};
  bundle.input("x", optional).output("y", tensor_type("float32", {"n", 2}));
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  const Value absent;
  Value output;
  const Status status = runner.run({&absent, 1}, {&output, 1});
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(status.message().find("'x'") != std::string::npos);
  const std::vector<float> x{1, 2};
  const Value input = view(x, {1, 2});
  CHECK(runner.run({&input, 1}, {&output, 1}).ok());
}

TEST_CASE("ONNX Runtime: a model that declares a wrong output shape fails at most once, and its outputs stay right") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime",
                      onnx::model(onnx::graph({onnx::node("NonZero", {"x"}, {"y"})},
                                              {onnx::value("x", onnx::symbolic(EB_FLOAT32, {"n"}))},
                                              {onnx::value("y", onnx::symbolic(EB_INT64, {"n", "n"}))})));
  bundle.input("x", tensor_type("float32", {"n"})).output("y", tensor_type("int64", {nullptr, nullptr}));
  use_engine(bundle, path);
  Runner runner = load_or_die(bundle.write());
  int failures = 0;
  for (unsigned bits = 0; bits < 64; ++bits) {
    std::vector<float> x(4);
    std::vector<std::int64_t> expected;
    for (unsigned i = 0; i < 4; ++i) {
      x[i] = static_cast<float>((bits * 5 / 4 >> i) & 1);
      if (x[i] != 0) expected.push_back(i);
    }
    const Value input = view(x, {4});
    std::int64_t y[4] = {-1, -1, -1, -1};
    Value output = Value::bound(y, sizeof(y));
    if (!runner.run({&input, 1}, {&output, 1}).ok()) {
      ++failures;
      CHECK(output.byte_size() == 0);  // As it was.
      REQUIRE(runner.run({&input, 1}, {&output, 1}).ok());
    }
    REQUIRE(output.shape()[1] == static_cast<std::int64_t>(expected.size()));
    CHECK(std::vector<std::int64_t>(y, y + expected.size()) == expected);
  }
  CHECK(failures <= 1);
}

TEST_CASE("ONNX Runtime: threads share a Runner") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  describe_relu(bundle, path);
  Runner runner = load_or_die(bundle.write());
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 100; ++i) {
        const std::vector<float> x(2 * static_cast<std::size_t>(1 + i % 3), static_cast<float>(thread + i));
        const Value input = view(x, {1 + i % 3, 2});
        float y[6];
        Value output = i % 2 == 0 ? Value::bound(y, sizeof(y)) : Value();
        RunOptions options;
        if (i % 5 == 0) options.deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
        const bool ok = runner.run({&input, 1}, {&output, 1}, options).ok();
        if (!ok || floats(output) != std::vector<float>(x.size(), 2.0F * x[0])) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("ONNX Runtime: a profile names node, operator and provider") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  describe_relu(bundle, path);
  bundle.variant()["options"]["graph_optimization"] = "disable";
  Runner runner = load_or_die(bundle.write());
  const std::vector<float> x{1, 2};
  const Value input = view(x, {1, 2});
  RunOptions options;
  options.profile = true;
  std::uint64_t calls = 0;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 3; ++i) {
      Value output;
      REQUIRE(runner.run({&input, 1}, {&output, 1}, options).ok());
      ++calls;
    }
    const Result<std::vector<ProfileEntry>> profile = runner.profile();
    REQUIRE_MESSAGE(profile.ok(), profile.status().message());
    REQUIRE(profile.value().size() == 2);
    CHECK(profile.value()[0].node == "Add_s");
    CHECK(profile.value()[1].op_type == "Relu");
    CHECK(profile.value()[1].provider == "CPUExecutionProvider");
    CHECK(profile.value()[1].calls == calls);
  }
}

TEST_CASE("ONNX Runtime: another version than the pinned one is refused, naming both") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  describe_relu(bundle, path);
  bundle.variant()["engine"]["version"] = "1.2.3";
  const Status status = Runner::load(bundle.write()).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(status.message().find("pins ONNX Runtime 1.2.3, but the library is version " + version_of(path)) !=
        std::string::npos);
}

TEST_CASE("ONNX Runtime: options are checked, and what the model lacks is named") {
  const char* const path = engine();
  if (path == nullptr) return;
  RunnerBundle bundle("onnxruntime", relu_model());
  describe_relu(bundle, path);
  const std::string written = bundle.write();
  LoadOptions options;
  options.options = {{"graph_optimization", "most"}};
  CHECK(Runner::load(written, options).status().code() == Code::kUsage);
  options.options = {{"intra_op_threads", "-1"}};
  CHECK(Runner::load(written, options).status().code() == Code::kUsage);
  options.options = {{"threads", "1"}};
  CHECK(Runner::load(written, options).status().message().find("it knows intra_op_threads") != std::string::npos);
  options.options = {{"graph_optimization", "extended"}, {"memory_arena", "0"},     {"memory_pattern", "0"},
                     {"execution_mode", "parallel"},     {"inter_op_threads", "2"}, {"allow_spinning", "0"}};
  CHECK(Runner::load(written, options).ok());
  bundle.variant()["inputs"][0] = "z";
  const Status status = Runner::load(bundle.write()).status();
  CHECK(status.code() == Code::kCorrupt);
}

}  // namespace
