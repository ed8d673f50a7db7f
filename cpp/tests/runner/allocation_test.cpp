// Heap allocations of one run on bound buffers: none of ours. A program of its own, because it replaces malloc; glibc
// lets a program do so for every library in the process, so operator new and the engine are counted as well.

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "onnx_model.hpp"
#include "onnxruntime/onnxruntime_c_api.h"
#include "runner_bundle.hpp"

namespace {

thread_local std::uint64_t allocations = 0;      // Of this thread: a run with one thread has no other.
thread_local std::int64_t left_to_succeed = -1;  // Then one fails; below 0: none does.

bool fails() {
  ++allocations;
  return left_to_succeed >= 0 && left_to_succeed-- == 0;
}

}  // namespace

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* pointer, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void* malloc(std::size_t size) { return fails() ? nullptr : __libc_malloc(size); }
void* calloc(std::size_t count, std::size_t size) { return fails() ? nullptr : __libc_calloc(count, size); }
void* realloc(void* pointer, std::size_t size) { return fails() ? nullptr : __libc_realloc(pointer, size); }
void* memalign(std::size_t alignment, std::size_t size) { return fails() ? nullptr : __libc_memalign(alignment, size); }
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  *out = memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
}

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

constexpr int kRuns = 16;
/// Long, so that text made of it would not fit into a std::string's own bytes.
const std::string kInput = "the_name_of_the_only_input_of_this_model";
const std::string kOutput = "the_name_of_the_only_output_of_this_model";

const std::string kReferenceModel = R"({"format": "edgebuild-reference", "version": 1,
    "inputs": [{"name": ")" + kInput +
                                    R"(", "dtype": "float32", "shape": [-1, 2]}], "constants": [],
    "nodes": [{"op": "add", "inputs": [")" +
                                    kInput + R"(", ")" + kInput + R"("], "output": "s"},
              {"op": "relu", "inputs": ["s"], "output": ")" +
                                    kOutput + R"("}], "outputs": [")" + kOutput + R"("]})";

template <typename Run>
std::uint64_t count(Run&& run) {
  const std::uint64_t before = allocations;
  for (int i = 0; i < kRuns; ++i) run(i);
  return allocations - before;
}

void describe(RunnerBundle& bundle) {
  bundle.input(kInput, tensor_type("float32", {"n", 2})).output(kOutput, tensor_type("float32", {"n", 2}));
}

/// Allocations of kRuns runs after a few that warm up, on two inputs and two outputs in turn.
std::uint64_t count_runner(Runner& runner, bool same_buffers, const RunOptions& options = {}) {
  const std::array<std::vector<float>, 2> x{{{1, -2, 3, -4}, {5, 6, -7, 8}}};
  std::array<std::array<float, 4>, 2> y{};
  const std::array<Value, 2> inputs{view(x[0], {2, 2}), view(x[1], {2, 2})};
  std::array<Value, 2> outputs{Value::bound(y[0].data(), sizeof(y[0])), Value::bound(y[1].data(), sizeof(y[1]))};
  int failures = 0;
  const auto run = [&](int i) {
    const auto which = static_cast<std::size_t>(same_buffers ? 0 : i % 2);
    failures += runner.run({&inputs[which], 1}, {&outputs[which], 1}, options).ok() ? 0 : 1;
  };
  (void)count(run);
  const std::uint64_t counted = count(run);
  CHECK(failures == 0);
  CHECK(y[0] == std::array<float, 4>{2, 0, 6, 0});
  if (!same_buffers) CHECK(y[1] == std::array<float, 4>{10, 12, 0, 16});
  return counted;
}

TEST_CASE("the counter counts") {
  CHECK(count([](int) { delete new std::string(100, 'x'); }) == 2 * kRuns);
}

TEST_CASE("a run of the reference backend on bound buffers allocates nothing") {
  RunnerBundle bundle("reference", kReferenceModel);
  describe(bundle);
  Runner runner = load_or_die(bundle.write());
  RunOptions deadline;
  deadline.deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  CHECK(count_runner(runner, true) == 0);
  CHECK(count_runner(runner, false) == 0);
  CHECK(count_runner(runner, true, deadline) == 0);
}

/// What `work` returns if the first, the second, … allocation fails, until none does.
template <typename Work>
std::vector<Code> codes_without_memory(Work&& work) {
  std::vector<Code> codes;
  while (true) {
    left_to_succeed = static_cast<std::int64_t>(codes.size());
    const Code code = work();
    const bool reached = left_to_succeed < 0;
    left_to_succeed = -1;
    if (!reached) return codes;
    codes.push_back(code);
  }
}

TEST_CASE("where memory runs out, a load and a run say so, throw nothing, and the Runner stays usable") {
  RunnerBundle bundle("reference", kReferenceModel);
  describe(bundle);
  const std::string path = bundle.write();
  left_to_succeed = 0;
  const Result<Runner> none = Runner::load(path);  // Not at every later point: libstdc++'s paths free twice there.
  left_to_succeed = -1;
  CHECK(none.status().code() == Code::kResourceExhausted);

  Runner runner = load_or_die(path);
  const std::vector<float> x{1, 2, 3, 4, 5, 6};
  const Value wrong = view(x, {2, 3});
  std::array<Value, 1> outputs;
  const auto runs = codes_without_memory([&] { return runner.run({&wrong, 1}, outputs).code(); });
  CHECK(std::count(runs.begin(), runs.end(), Code::kResourceExhausted) > 0);
  CHECK(count_runner(runner, true) == 0);
}

/// Allocations of kRuns bare runs through the engine's C API; buffers bound once, or again before each run.
std::uint64_t count_bare(const OrtApi& api, const std::string& model, bool bind_once) {
  const auto check = [&](OrtStatus* status) {
    if (status != nullptr) FAIL(api.GetErrorMessage(status));
  };
  OrtEnv* env = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* cpu = nullptr;
  OrtIoBinding* binding = nullptr;
  OrtRunOptions* run_options = nullptr;
  check(api.CreateEnv(ORT_LOGGING_LEVEL_WARNING, "bare", &env));
  check(api.CreateSessionOptions(&options));
  check(api.SetIntraOpNumThreads(options, 1));
  check(api.CreateSessionFromArray(env, model.data(), model.size(), options, &session));
  check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &cpu));
  check(api.CreateIoBinding(session, &binding));
  check(api.CreateRunOptions(&run_options));
  const std::int64_t shape[2] = {2, 2};
  std::array<float, 4> x{1, -2, 3, -4};
  std::array<float, 4> y{};
  const auto bind = [&] {
    OrtValue* input = nullptr;
    OrtValue* output = nullptr;
    check(api.CreateTensorWithDataAsOrtValue(cpu, x.data(), sizeof(x), shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                             &input));
    check(api.BindInput(binding, kInput.c_str(), input));
    api.ReleaseValue(input);  // The binding holds it.
    check(api.CreateTensorWithDataAsOrtValue(cpu, y.data(), sizeof(y), shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                             &output));
    check(api.BindOutput(binding, kOutput.c_str(), output));
    api.ReleaseValue(output);
  };
  bind();
  const auto run = [&](int) {
    if (!bind_once) bind();
    check(api.RunWithBinding(session, run_options, binding));
  };
  (void)count(run);
  const std::uint64_t counted = count(run);
  CHECK(y == std::array<float, 4>{2, 0, 6, 0});
  api.ReleaseRunOptions(run_options);
  api.ReleaseIoBinding(binding);
  api.ReleaseMemoryInfo(cpu);
  api.ReleaseSession(session);
  api.ReleaseSessionOptions(options);
  api.ReleaseEnv(env);
  return counted;
}

TEST_CASE("a run of ONNX Runtime on bound buffers allocates what a bare program's run does, and no more") {
  const char* const path = std::getenv("EDGEBUILD_TEST_ONNXRUNTIME");
  if (path == nullptr) {
    MESSAGE("skipped: EDGEBUILD_TEST_ONNXRUNTIME does not name libonnxruntime.so");
    return;
  }
  const std::string type = onnx::symbolic(EB_FLOAT32, {"n", "2"});
  const std::string model =
      onnx::model(onnx::graph({onnx::node("Add", {kInput, kInput}, {"s"}), onnx::node("Relu", {"s"}, {kOutput})},
                              {onnx::value(kInput, type)}, {onnx::value(kOutput, type)}));
  RunnerBundle bundle("onnxruntime", model);
  describe(bundle);
  const std::string library = path;
  bundle.variant()["engine"] = {{"name", "onnxruntime"},
                                {"version", library.substr(library.rfind(".so.") + 4)},
                                {"linkage", "bundled"},
                                {"library", bundle.library(path)}};
  bundle.variant()["options"] = {{"intra_op_threads", "1"}};
  Runner runner = load_or_die(bundle.write());

  void* const handle = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(handle != nullptr);
  const auto base = reinterpret_cast<const OrtApiBase* (*)()>(::dlsym(handle, "OrtGetApiBase"));
  REQUIRE(base != nullptr);
  const OrtApi& api = *base()->GetApi(ORT_API_VERSION);
  const std::uint64_t bare = count_bare(api, model, true);
  CHECK(bare > 0);  // Else the counter does not see the engine, and the comparison says nothing.
  CHECK(count_runner(runner, true) == bare);
  CHECK(count_runner(runner, false) <= count_bare(api, model, false));
}

}  // namespace
