// Runner against bare LibTorch in one process: the same library and archive, in alternating blocks.
//   overhead_libtorch MODEL BUNDLE BLOCKS RUNS_PER_BLOCK
// Prints one JSON object: microseconds of one inference on either side, median over blocks. Inputs are float32.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "edgebuild/runner.hpp"

namespace {

using Clock = std::chrono::steady_clock;

template <typename Run>
double median_of(int runs, Run&& run) {
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(runs));
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[static_cast<std::size_t>(runs / 2)];
}

[[noreturn]] void fail(const edgebuild::Status& status) {
  std::fprintf(stderr, "overhead_libtorch: %s\n", status.message().c_str());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL BUNDLE BLOCKS RUNS_PER_BLOCK\n", argv[0]);
    return 2;
  }
  const int blocks = std::atoi(argv[3]);
  const int runs = std::atoi(argv[4]);
  at::set_num_threads(1);
  torch::jit::Module module = torch::jit::load(argv[1]);
  if (!module.hasattr("training")) module = torch::jit::optimize_for_inference(module);

  edgebuild::LoadOptions options;
  options.backend = "libtorch";
  options.options["intra_op_threads"] = "1";
  auto loaded = edgebuild::Runner::load(argv[2], options);
  if (!loaded.ok()) fail(loaded.status());
  edgebuild::Runner& runner = loaded.value();

  std::vector<edgebuild::Value> inputs;
  std::vector<edgebuild::Value> outputs;
  std::vector<std::vector<std::byte>> buffers;
  std::vector<c10::IValue> arguments;
  for (const auto& spec : runner.signature().inputs) {
    std::vector<std::int64_t> shape;
    for (const auto& dim : *spec.type.shape) shape.push_back(dim.kind == edgebuild::Dim::Kind::kFixed ? dim.size : 1);
    auto value = edgebuild::Value::allocate(spec.type.dtype, shape);
    if (!value.ok()) fail(value.status());
    auto* const data = static_cast<float*>(value.value().mutable_data());
    std::fill(data, data + value.value().element_count(), 1.0F);
    arguments.emplace_back(at::from_blob(data, shape, at::kFloat));
    inputs.push_back(std::move(value).value());
  }
  const auto run_bare = [&] {
    const c10::InferenceMode inference;
    return module.forward(arguments);
  };
  const auto run_runner = [&] {
    const auto status = runner.run(inputs, outputs);
    if (!status.ok()) fail(status);
  };
  outputs.resize(runner.signature().outputs.size());
  run_runner();
  for (edgebuild::Value& output : outputs) {  // from here into buffers of the caller's, as a loop on a board does it
    buffers.emplace_back(output.byte_size());
    output = edgebuild::Value::bound(buffers.back().data(), buffers.back().size());
  }
  (void)median_of(runs, run_bare);
  (void)median_of(runs, run_runner);
  std::vector<double> bare_times, runner_times, differences;
  for (int i = 0; i < blocks; ++i) {
    // Who goes first alternates too, so that a drift of the machine's speed hits both sides alike.
    const double first = i % 2 == 0 ? median_of(runs, run_bare) : median_of(runs, run_runner);
    const double second = i % 2 == 0 ? median_of(runs, run_runner) : median_of(runs, run_bare);
    bare_times.push_back(i % 2 == 0 ? first : second);
    runner_times.push_back(i % 2 == 0 ? second : first);
    differences.push_back(runner_times.back() - bare_times.back());
  }
  for (std::vector<double>* values : {&bare_times, &runner_times, &differences}) {
    std::sort(values->begin(), values->end());
  }
  const auto at = [](const std::vector<double>& sorted, double part) {
    return sorted[static_cast<std::size_t>(part * static_cast<double>(sorted.size() - 1))];
  };
  std::printf(
      "{\"bare_us\": %.3f, \"runner_us\": %.3f, \"overhead_us\": %.3f, \"overhead_us_p10\": %.3f, \"overhead_us_p90\": "
      "%.3f, \"blocks\": %d, \"runs_per_block\": %d}\n",
      at(bare_times, 0.5), at(runner_times, 0.5), at(differences, 0.5), at(differences, 0.1), at(differences, 0.9),
      blocks, runs);
  std::fflush(stdout);
  std::_Exit(0);
}
