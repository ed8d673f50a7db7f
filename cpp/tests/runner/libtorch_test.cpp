// Values through the LibTorch backend, as a plugin, against the library that it was built with.

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <thread>

#include "libtorch_bundle.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

TEST_CASE("LibTorch: bound and allocated outputs at every size of a dynamic axis, frozen or not") {
  const std::string forward = "def forward(self, x):\n  return torch.relu(x * self.state + 1)\n";
  for (const bool frozen : {false, true}) {
    Runner runner = one_input(forward, 1, {2, -3}, frozen).load();
    CHECK(runner.engine_version() == torch_version());
    CHECK(runner.backend_name() == "libtorch");
    std::mt19937 random(11);
    std::uniform_real_distribution<float> real(-2, 2);
    for (const std::int64_t rows : {1, 5, 5, 2, 0, 3}) {
      std::vector<float> x(static_cast<std::size_t>(rows) * 2);
      for (float& value : x) value = real(random);
      std::vector<float> expected;
      for (std::size_t i = 0; i < x.size(); ++i)
        expected.push_back(std::max(x[i] * (i % 2 == 0 ? 2.0F : -3.0F) + 1, 0.0F));
      CHECK(run_one(runner, x, {rows, 2}) == expected);
      std::vector<float> y(16, 7);
      Value bound = Value::bound(y.data(), y.size() * sizeof(float));
      const Value input = view(x, {rows, 2});
      REQUIRE(runner.run({&input, 1}, {&bound, 1}).ok());
      CHECK(bound.shape()[0] == rows);
      CHECK(floats(bound) == expected);
      CHECK(y[x.size()] == 7);
    }
  }
}

TEST_CASE("LibTorch: the same buffer with another content, and a content that moved, give their own results") {
  Runner runner = one_input("def forward(self, x):\n  return x + 1\n").load();
  std::vector<float> x{1, 2};
  CHECK(run_one(runner, x, {2}) == std::vector<float>{2, 3});
  x[0] = 5;
  CHECK(run_one(runner, x, {2}) == std::vector<float>{6, 3});
  CHECK(run_one(runner, {8, 9}, {2}) == std::vector<float>{9, 10});
  CHECK(run_one(runner, x, {1, 2}) == std::vector<float>{6, 3});
}

TEST_CASE("LibTorch: an output that is too small says what it needs, and nothing is written anywhere") {
  Runner runner = one_input("def forward(self, x):\n  return x + 1, x.sum()\n", 2).load();
  const std::vector<float> x{1, 2, 3};
  const Value input = view(x, {3});
  float small[2] = {9, 9};
  float sum = 9;
  Value outputs[2] = {Value::bound(small, sizeof(small)), Value::bound(&sum, sizeof(sum))};
  check_message(runner.run({&input, 1}, outputs), Code::kBufferTooSmall, {"12 bytes", "8"});
  CHECK(outputs[0].byte_size() == 12);
  CHECK(outputs[0].shape()[0] == 3);
  CHECK(small[0] == 9);
  CHECK(sum == 9);
}

TEST_CASE("LibTorch: results that are no dense row-major tensors become such") {
  Runner runner =
      one_input(
          "def forward(self, x):\n  return x.t(), x[:, 1], torch.view_as_complex(x.expand(2, 2, 2)).conj().imag\n", 3)
          .load();
  const std::vector<float> x{1, 2, 3, 4};
  const Value input = view(x, {2, 2});
  const std::vector<std::vector<float>> expected{{1, 3, 2, 4}, {2, 4}, {-2, -4, -2, -4}};
  float buffers[3][4];
  for (const bool bind : {false, true}) {
    Value outputs[3];
    for (std::size_t i = 0; bind && i < 3; ++i) outputs[i] = Value::bound(buffers[i], sizeof(buffers[i]));
    const Status status = runner.run({&input, 1}, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    for (std::size_t i = 0; i < 3; ++i) CHECK(floats(outputs[i]) == expected[i]);
  }
}

TEST_CASE("LibTorch: every dtype that it has goes in and comes out bit by bit") {
  const std::pair<const char*, std::pair<DType, std::size_t>> dtypes[] = {
      {"float32", {EB_FLOAT32, 4}},
      {"uint8", {EB_UINT8, 1}},
      {"int8", {EB_INT8, 1}},
      {"uint16", {EB_UINT16, 2}},
      {"int16", {EB_INT16, 2}},
      {"int32", {EB_INT32, 4}},
      {"int64", {EB_INT64, 8}},
      {"float16", {EB_FLOAT16, 2}},
      {"float64", {EB_FLOAT64, 8}},
      {"uint32", {EB_UINT32, 4}},
      {"uint64", {EB_UINT64, 8}},
      {"complex64", {EB_COMPLEX64, 8}},
      {"complex128", {EB_COMPLEX128, 16}},
      {"bfloat16", {EB_BFLOAT16, 2}},
      {"float8e4m3fn", {EB_FLOAT8_E4M3FN, 1}},
  };
  for (const auto& [name, spec] : dtypes) {
    const std::string known = dtype_name(spec.first);
    TorchBundle bundle(torch_script("def forward(self, x):\n  return x.clone(), x\n"), {"x"}, 2, known);
    Runner runner = bundle.load();
    std::vector<unsigned char> bytes(3 * spec.second);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 1);
    const std::int64_t shape[] = {3};
    const Value input = Value::view(spec.first, shape, bytes.data(), bytes.size()).value();
    Value outputs[2];
    const Status status = runner.run({&input, 1}, outputs);
    REQUIRE_MESSAGE(status.ok(), name, ": ", status.message());
    for (Value& output : outputs) {
      CHECK(output.dtype() == spec.first);
      REQUIRE(output.byte_size() == bytes.size());
      CHECK(std::memcmp(output.data(), bytes.data(), bytes.size()) == 0);
      CHECK(output.data() != bytes.data());
    }
  }
}

TEST_CASE("LibTorch: a dtype that it lacks is refused by name") {
  TorchBundle bundle(torch_script("def forward(self, x):\n  return x\n"), {"x"}, 1, "string", Json::array({1}));
  Runner runner = bundle.load();
  const std::int64_t shape[] = {1};
  const std::string text[] = {"a"};
  const Value input = Value::strings(shape, text).value();
  Value output;
  check_message(runner.run({&input, 1}, {&output, 1}), Code::kUnsupported, {"'x'"});
}

TEST_CASE("LibTorch: scalars and tensors without elements") {
  Runner runner = one_input("def forward(self, x):\n  return x * 2\n").load();
  CHECK(run_one(runner, {4}, {}) == std::vector<float>{8});
  CHECK(run_one(runner, {}, {0}).empty());
  CHECK(run_one(runner, {}, {3, 0, 2}).empty());
}

TEST_CASE("LibTorch: tensors are taken out of tuples, lists and dicts, depth first") {
  const char* const forward =
      "def forward(self, x):\n"
      "  named = {\"b\": x + 3, \"a\": x + 4}\n"
      "  return (x, [x + 1, x + 2]), 5, named, None\n";
  Runner runner = one_input(forward, 5).load();
  const std::vector<float> x{1};
  const Value input = view(x, {1});
  Value outputs[5];
  const Status status = runner.run({&input, 1}, outputs);
  REQUIRE_MESSAGE(status.ok(), status.message());
  for (std::size_t i = 0; i < 5; ++i) CHECK(floats(outputs[i]) == std::vector<float>{static_cast<float>(i) + 1});
}

TEST_CASE(
    "LibTorch: fewer tensors than the signature has, or another kind of value, are said, and the runner works on") {
  const char* const forward =
      "def forward(self, x):\n"
      "  out = [x]\n"
      "  for i in range(int(x.sum())):\n"
      "    out.append(x + i)\n"
      "  return out\n";
  Runner runner = one_input(forward, 2).load();
  const std::vector<float> none{0};
  const std::vector<float> one{1};
  Value outputs[2];
  Value input = view(none, {1});
  check_message(runner.run({&input, 1}, outputs), Code::kInvalidArgument, {"1 tensors", "number 1"});
  input = view(one, {1});
  CHECK(runner.run({&input, 1}, outputs).ok());
  Runner sparse = one_input("def forward(self, x):\n  return x.to_sparse()\n").load();
  check_message(sparse.run({&input, 1}, {outputs, 1}), Code::kUnsupported, {"dense"});
}

TEST_CASE("LibTorch: decisions by value take the branch that the input asks for") {
  const char* const forward =
      "def forward(self, x):\n"
      "  if bool(x.sum() > 0):\n"
      "    return x * 10\n"
      "  steps = 0\n"
      "  while bool(x.sum() < 0):\n"
      "    x = x + 1\n"
      "    steps += 1\n"
      "  return x + steps\n";
  Runner runner = one_input(forward).load();
  CHECK(run_one(runner, {2}, {1}) == std::vector<float>{20});
  CHECK(run_one(runner, {-3}, {1}) == std::vector<float>{3});
}

TEST_CASE("LibTorch: a model that writes into its input, or into a view of it, leaves the caller's bytes alone") {
  for (const char* forward : {"def forward(self, x):\n  return x.add_(1)\n",
                              "def forward(self, x):\n  y = x.view(-1)\n  y[0] = 7\n  return x + 0\n",
                              "def forward(self, x):\n  x.unsqueeze_(0)\n  return x.sum(0)\n"}) {
    Runner runner = one_input(forward).load();
    const std::vector<float> x{1, 2};
    const std::vector<float> first = run_one(runner, x, {2});
    CHECK(x == std::vector<float>{1, 2});
    CHECK(run_one(runner, x, {2}) == first);
  }
}

TEST_CASE("LibTorch: who writes into a result changes neither the model, the input, nor another result") {
  Runner runner =
      one_input("def forward(self, x):\n  y = x + 1\n  return self.state, x, y, y, y[0:1]\n", 5, {4, 5}, true).load();
  const std::vector<float> x{1, 2};
  const Value input = view(x, {2});
  for (int round = 0; round < 2; ++round) {
    Value outputs[5];
    REQUIRE(runner.run({&input, 1}, outputs).ok());
    const std::vector<std::vector<float>> expected{{4, 5}, {1, 2}, {2, 3}, {2, 3}, {2}};
    for (std::size_t i = 0; i < 5; ++i) {
      CHECK(floats(outputs[i]) == expected[i]);
      static_cast<float*>(outputs[i].mutable_data())[0] = -1;
    }
    CHECK(x[0] == 1);
  }
}

TEST_CASE("LibTorch: lists of tensors, absent optionals, defaults and unused inputs") {
  const char* const forward =
      "def forward(self, parts: List[Tensor], extra: Optional[Tensor], scale: float = 2.0):\n"
      "  total = torch.zeros(1)\n"
      "  for part in parts:\n"
      "    total = total + part\n"
      "  if extra is not None:\n"
      "    total = total + extra\n"
      "  return total * scale\n";
  TorchBundle bundle(torch_script(forward), {}, 1);
  bundle->input("parts", {{"kind", "sequence"}, {"element", tensor_type("float32", nullptr)}});
  bundle->input("extra", {{"kind", "optional"}, {"element", tensor_type("float32", nullptr)}});
  bundle->input("unused", tensor_type("float32", nullptr));
  bundle->variant()["inputs"][2] = nullptr;
  Runner runner = bundle.load();
  const std::vector<float> one{1};
  const std::vector<float> two{2};
  for (const bool extra : {false, true}) {
    std::vector<Value> items;
    items.push_back(view(one, {1}));
    items.push_back(view(two, {1}));
    const Value inputs[3] = {Value::sequence(std::move(items), EB_FLOAT32), extra ? view(two, {1}) : Value(),
                             view(one, {1})};
    Value output;
    const Status status = runner.run(inputs, {&output, 1});
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(floats(output) == std::vector<float>{extra ? 10.0F : 6.0F});
  }
}

TEST_CASE("LibTorch: a module that keeps state has one state a Runner, which reset() puts back") {
  TorchBundle bundle = one_input("def forward(self, x):\n  self.state.add_(1.0)\n  return x + self.state\n", 1, {10});
  bundle->manifest()["required_features"] = {"state"};
  Runner runner = bundle.load();
  Runner other = bundle.load();
  CHECK(runner.keeps_state());
  const auto step = [](Runner& one) { return run_one(one, {0.5F}, {1})[0]; };
  CHECK(step(runner) == 11.5F);
  CHECK(step(runner) == 12.5F);
  CHECK(step(other) == 11.5F);
  REQUIRE(runner.reset().ok());
  CHECK(step(runner) == 11.5F);
  CHECK(step(other) == 12.5F);
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([&runner, &step] {
      for (int round = 0; round < 25; ++round) step(runner);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(step(runner) == 112.5F);  // One after the other: no step is lost, and no second state came into being.
}

TEST_CASE("LibTorch: reset() of a model that keeps no state changes nothing") {
  Runner runner = one_input("def forward(self, x):\n  return x * 2\n").load();
  CHECK(!runner.keeps_state());
  CHECK(runner.reset().ok());
  CHECK(run_one(runner, {2.0F}, {1})[0] == 4.0F);
}

}  // namespace
