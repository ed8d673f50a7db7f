// Runner against bare ONNX Runtime in one process: the same library, model and options, in alternating blocks.
//   overhead LIBRARY MODEL BUNDLE BLOCKS RUNS_PER_BLOCK
// Prints one JSON object: time of one inference on either side, median over blocks, and heap allocations of one run.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "bare.h"
#include "edgebuild/runner.hpp"

namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

// Every allocation of the process, the engine's too: what Runner adds is the difference of the two sides.
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void* malloc(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_calloc(count, size);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? 12 : 0;
}
}

namespace {

using Clock = std::chrono::steady_clock;

struct Block {
  double microseconds;  // of one run, the median of the block
  double allocations;   // of one run
};

template <typename Run>
Block measure(int runs, Run&& run) {
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(runs));
  const std::uint64_t before = allocations.load();
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    run();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
  const double count = static_cast<double>(allocations.load() - before) / runs;
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return {times[static_cast<std::size_t>(runs / 2)], count};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void fail(const edgebuild::Status& status) {
  std::fprintf(stderr, "overhead: %s\n", status.message().c_str());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: %s LIBRARY MODEL BUNDLE BLOCKS RUNS_PER_BLOCK\n", argv[0]);
    return 2;
  }
  const int blocks = std::atoi(argv[4]);
  const int runs = std::atoi(argv[5]);
  bare_model bare;
  bare_load(&bare, argv[1], argv[2], 1);

  edgebuild::LoadOptions options;
  options.options["intra_op_threads"] = "1";
  auto loaded = edgebuild::Runner::load(argv[3], options);
  if (!loaded.ok()) fail(loaded.status());
  edgebuild::Runner& runner = loaded.value();

  std::vector<edgebuild::Value> inputs;
  std::vector<edgebuild::Value> outputs;
  std::vector<std::vector<std::byte>> buffers;
  for (const auto& spec : runner.signature().inputs) {
    std::vector<std::int64_t> shape;
    for (const auto& dim : *spec.type.shape) shape.push_back(dim.kind == edgebuild::Dim::Kind::kFixed ? dim.size : 1);
    auto value = edgebuild::Value::allocate(spec.type.dtype, shape);
    if (!value.ok()) fail(value.status());
    if (spec.type.dtype == EB_FLOAT32) {
      auto* data = static_cast<float*>(value.value().mutable_data());
      std::fill(data, data + value.value().element_count(), 1.0f);
    }
    inputs.push_back(std::move(value).value());
  }
  for (const auto& spec : runner.signature().outputs) {
    std::uint64_t count = 1;
    for (const auto& dim : *spec.type.shape) {
      count *= dim.kind == edgebuild::Dim::Kind::kFixed ? static_cast<std::uint64_t>(dim.size) : 1;
    }
    buffers.emplace_back(*edgebuild::dtype_bytes(spec.type.dtype, count));
    outputs.push_back(edgebuild::Value::bound(buffers.back().data(), buffers.back().size()));
  }

  const auto run_bare = [&] { bare_run(&bare); };
  const auto run_runner = [&] {
    const auto status = runner.run(inputs, outputs);
    if (!status.ok()) fail(status);
  };
  (void)measure(runs, run_bare);
  (void)measure(runs, run_runner);
  std::vector<double> bare_times, runner_times, differences, bare_counts, runner_counts;
  for (int i = 0; i < blocks; ++i) {
    // Who goes first alternates too, so that a drift of the machine's speed hits both sides alike.
    const Block first = i % 2 == 0 ? measure(runs, run_bare) : measure(runs, run_runner);
    const Block second = i % 2 == 0 ? measure(runs, run_runner) : measure(runs, run_bare);
    const Block& b = i % 2 == 0 ? first : second;
    const Block& r = i % 2 == 0 ? second : first;
    bare_times.push_back(b.microseconds);
    runner_times.push_back(r.microseconds);
    differences.push_back(r.microseconds - b.microseconds);
    bare_counts.push_back(b.allocations);
    runner_counts.push_back(r.allocations);
  }
  std::vector<double> sorted = differences;
  std::sort(sorted.begin(), sorted.end());
  std::printf(
      "{\"bare_us\": %.3f, \"runner_us\": %.3f, \"overhead_us\": %.3f, \"overhead_us_p10\": %.3f, \"overhead_us_p90\": "
      "%.3f, \"bare_allocations\": %.2f, \"runner_allocations\": %.2f, \"blocks\": %d, \"runs_per_block\": %d}\n",
      median(bare_times), median(runner_times), median(differences), sorted[sorted.size() / 10],
      sorted[sorted.size() * 9 / 10], median(bare_counts), median(runner_counts), blocks, runs);
  std::fflush(stdout);
  std::_Exit(0);
}
