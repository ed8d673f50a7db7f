// What the LibTorch backend refuses and how it fails, its options, threads and versions.

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <thread>

#include "libtorch_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

TEST_CASE("LibTorch: what goes wrong in a run is one line with the reason, and the runner stays usable") {
  struct Case {
    const char* forward;
    Code code;
    const char* part;
  };
  const Case cases[] = {
      {"def forward(self, x):\n  assert bool(x.sum() < 5), \"too large for me\"\n  return x\n", Code::kInternal,
       "too large for me"},
      {"def forward(self, x):\n  return torch.matmul(x, torch.ones(int(x.sum()), 1))\n", Code::kInternal, "mat"},
      {"def forward(self, x):\n  return torch.embedding(torch.ones(4, 1), x.long())\n", Code::kInvalidArgument,
       "index out of range"},
      {"def forward(self, x):\n  return torch.ones(int(x.sum())) if bool(x.sum() < 5) else torch.ones(1 << 60)\n",
       Code::kResourceExhausted, "memory"},
  };
  for (const Case& one : cases) {
    Runner runner = one_input(one.forward).load();
    const std::vector<float> bad{3, 4};
    const Value input = view(bad, {1, 2});
    float y[4] = {5, 5, 5, 5};
    Value output = Value::bound(y, sizeof(y));
    for (int round = 0; round < 3; ++round) {  // The engine's optimised form says it otherwise.
      check_message(runner.run({&input, 1}, {&output, 1}), one.code, {one.part});
      CHECK(y[0] == 5);
    }
    run_one(runner, {1, 1}, {1, 2});
  }
}

TEST_CASE("LibTorch: options are checked by name and value, and the caller's win") {
  const std::string forward = "def forward(self, x):\n  return x + torch.edgebuild_threads(x)\n";
  TorchBundle bundle = one_input(forward);
  bundle->variant()["options"] = {{"intra_op_threads", "3"}, {"graph_optimization", "basic"}};
  Runner runner = bundle.load();
  CHECK(run_one(runner, {0}, {1}) == std::vector<float>{3});
  LoadOptions options;
  options.options["intra_op_threads"] = "2";
  Runner other = bundle.load(options);
  CHECK(run_one(other, {0}, {1}) == std::vector<float>{2});
  CHECK(run_one(runner, {0}, {1}) == std::vector<float>{3});
  options.options["intra_op_threads"] = "1025";
  check_message(bundle.failure(options), Code::kUsage, {"intra_op_threads", "1024", "'1025'"});
  options.options["intra_op_threads"] = "-1";
  check_message(bundle.failure(options), Code::kUsage, {"intra_op_threads"});
  options.options = {{"graph_optimization", "most"}};
  check_message(bundle.failure(options), Code::kUsage, {"graph_optimization", "basic, all", "'most'"});
  options.options = {{"memory_arena", "1"}};
  check_message(bundle.failure(options), Code::kUsage, {"no option 'memory_arena'", "intra_op_threads"});
}

TEST_CASE("LibTorch: an archive that is none, or cut off, is refused in one line") {
  const std::string archive = torch_script("def forward(self, x):\n  return x\n");
  for (const std::string& bytes :
       {std::string("no archive"), archive.substr(0, archive.size() / 2), archive.substr(0, 4)}) {
    TorchBundle bundle(bytes, {"x"}, 1);
    check_message(bundle.failure(), Code::kIncompatible, {"can't load model/model.bin"});
  }
  TorchBundle headless(torch_script("def other(self, x):\n  return x\n"), {"x"}, 1);
  check_message(headless.failure(), Code::kIncompatible, {"no method forward"});
}

TEST_CASE("LibTorch: an archive for a younger version, or with an operator that is missing, says so; the next serves") {
  const std::string good = torch_script("def forward(self, x):\n  return x + 0\n");
  const std::size_t version = good.find("/version");
  REQUIRE(version != std::string::npos);
  std::string younger = good;
  const std::size_t number = good.find_first_of("0123456789", version + std::string("/version").size());
  REQUIRE(good[number + 1] == '\n');
  younger.replace(number, 2, "99");
  struct Case {
    std::string archive;
    const char* said;
  };
  const Case cases[] = {{torch_script_with_lost_operator(), "edgebuild_lost"},
                        {younger, "version 99"},
                        {good.substr(0, good.size() - 40), "can't load"}};
  for (const Case& one : cases) {
    TorchBundle bundle(one.archive, {"x"}, 1);
    check_message(bundle.failure(), Code::kIncompatible, {"can't load model/model.bin", one.said});
    bundle->data_file("next.bin", good);
    bundle->variant()["data"] = Json::array();
    bundle->add_variant("next")["model"] = "model/next.bin";
    Runner runner = bundle.load();
    CHECK(runner.variant_name() == "next");
    REQUIRE(runner.passed_over().size() == 1);
    CHECK(runner.passed_over()[0].reason.find(one.said) != std::string::npos);
    CHECK(run_one(runner, {1, 2}, {2}) == std::vector<float>{1, 2});
    LoadOptions strict;
    strict.allow_fallback = false;
    check_message(bundle.failure(strict), Code::kIncompatible, {one.said});
  }
}

TEST_CASE("LibTorch: a library that is no compiled model, or cut off, is refused in one line") {
  std::ifstream file(EDGEBUILD_TEST_LIBTORCH_PLUGIN, std::ios::binary);
  const std::string library((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  REQUIRE(library.size() > 1000);
  for (const std::string& bytes : {library, library.substr(0, 1000), library.substr(0, 4)}) {
    TorchBundle bundle(bytes, {"x"}, 1);
    check_message(bundle.failure(), Code::kIncompatible, {"can't load model/model.bin"});
  }
  TorchBundle unused(library, {"x"}, 1);
  unused->variant()["inputs"][0] = nullptr;
  check_message(unused.failure(), Code::kCorrupt, {"takes every input"});
}

TEST_CASE("LibTorch: a manifest that does not fit the module is corrupt") {
  const std::string archive = torch_script("def forward(self, x, y):\n  return x + y\n");
  check_message(TorchBundle(archive, {"x", "z"}, 1).failure(), Code::kCorrupt, {"input 'z'", "x, y"});
  check_message(TorchBundle(archive, {"x"}, 1).failure(), Code::kCorrupt, {"needs 'y'"});
  TorchBundle named(archive, {"x", "y"}, 1);
  named->variant()["outputs"][0] = "sum";
  check_message(named.failure(), Code::kCorrupt, {"output 'sum'"});
}

TEST_CASE("LibTorch: a deadline that has passed is said before the run, and the runner works on") {
  Runner runner = one_input("def forward(self, x):\n  return x\n").load();
  const std::vector<float> x{1};
  const Value input = view(x, {1});
  Value output;
  RunOptions options;
  options.deadline = std::chrono::steady_clock::now() - std::chrono::seconds(1);
  CHECK(runner.run({&input, 1}, {&output, 1}, options).code() == Code::kDeadlineExceeded);
  options.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  CHECK(runner.run({&input, 1}, {&output, 1}, options).ok());
  options.profile = true;
  CHECK(runner.run({&input, 1}, {&output, 1}, options).code() == Code::kUnsupported);
}

TEST_CASE("LibTorch: any number of threads run at once, each with its own result") {
  Runner runner = one_input("def forward(self, x):\n  return torch.matmul(x, x.t())\n").load();
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int id = 1; id <= 4; ++id) {
    threads.emplace_back([&runner, &wrong, id] {
      const std::vector<float> x(4, static_cast<float>(id));
      const Value input = view(x, {2, 2});
      for (int round = 0; round < 50; ++round) {
        Value output;
        if (!runner.run({&input, 1}, {&output, 1}).ok() || floats(output)[0] != 2.0F * static_cast<float>(id * id))
          ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("LibTorch: another version than the pinned one is refused, naming both") {
  void* const library = dlopen(EDGEBUILD_TEST_LIBTORCH_PLUGIN, RTLD_NOW | RTLD_LOCAL);
  REQUIRE(library != nullptr);
  const auto query = reinterpret_cast<eb_backend_query_fn>(dlsym(library, EB_BACKEND_QUERY_SYMBOL));
  REQUIRE(query != nullptr);
  CHECK(query(EB_ABI_MAJOR + 1, 0) == nullptr);
  const eb_backend_api* const api = query(EB_ABI_MAJOR, EB_ABI_MINOR);
  REQUIRE(api != nullptr);
  CHECK(std::string(api->name) == "libtorch");
  CHECK((api->features & EB_FEATURE_CANCEL) == 0);
  CHECK(api->cancel == nullptr);
  std::string said;
  eb_host_api host{};
  host.struct_size = sizeof(host);
  host.user = &said;
  host.status_create = [](void* user, std::int32_t code, const char* message, std::size_t size) {
    *static_cast<std::string*>(user) = std::to_string(code) + " " + std::string(message, size);
    return reinterpret_cast<eb_status*>(user);
  };
  eb_backend_config config{};
  config.struct_size = sizeof(config);
  config.engine_version = "1.2.3";
  eb_backend* backend = nullptr;
  CHECK(api->backend_create(&host, &config, &backend) != nullptr);
  CHECK(said.substr(0, 2) == "5 ");
  CHECK(said.find("1.2.3") != std::string::npos);
  CHECK(said.find(torch_version()) != std::string::npos);
  const std::string build = torch_version() + "+cpu";
  config.engine_version = build.c_str();
  REQUIRE(api->backend_create(&host, &config, &backend) == nullptr);
  CHECK(api->backend_engine_version(backend) == torch_version());
  api->backend_destroy(backend);
}

}  // namespace
