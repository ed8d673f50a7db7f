#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <thread>

#include "bound_outputs.hpp"
#include "command.hpp"
#include "golden.hpp"
#include "machine.hpp"
#include "runner/requirements.hpp"
#include "statistics.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using Clock = std::chrono::steady_clock;
using edgebuild::Code;
using edgebuild::ProfileEntry;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::Value;

// More than anybody waits, and within what a clock can count.
constexpr double kLongestSeconds = 1e9;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

struct Measurement {
  double load_s = 0.0;
  double first_result_s = 0.0;  // since the program began
  double wall_s = 0.0;          // of the measured part
  std::size_t runs = 0;
  Statistics latency;  // seconds
  CpuClock before;
  CpuClock after;
  std::uint64_t threads = 0;
  std::uint64_t peak_rss = 0;
  std::vector<ProfileEntry> profile;
};

class Bench {
 public:
  Bench(const BenchOptions& options, Runner& runner, const LoadedInputs& inputs)
      : options_(options), runner_(runner), inputs_(inputs) {}

  Status measure(Measurement& result) {
    std::optional<HardDeadline> deadline(options_);
    std::vector<Value> first(runner_.signature().outputs.size());
    EDGEBUILD_RETURN_IF_ERROR(runner_.run(inputs_.values, first, run_options(options_)));
    result.first_result_s = seconds(Clock::now() - options_.started);
    result.before = read_cpu_clock();

    std::vector<std::unique_ptr<BoundOutputs>> outputs;
    for (unsigned i = 0; i < options_.concurrency; ++i) outputs.push_back(std::make_unique<BoundOutputs>(first));
    // Each thread: the inferences that warm up, those that begin while the time lasts, and the last one's own time.
    deadline.emplace(options_, options_.seconds + options_.deadline.value_or(0.0) * options_.warmup);
    std::vector<std::vector<double>> samples(options_.concurrency);
    std::vector<Status> statuses(options_.concurrency);
    std::vector<std::thread> workers;
    try {
      for (unsigned i = 1; i < options_.concurrency; ++i) {
        workers.emplace_back([&, i] { statuses[i] = work(*outputs[i], samples[i]); });
      }
      statuses[0] = work(*outputs[0], samples[0]);
    } catch (const std::system_error& error) {
      give_up();
      statuses[0] =
          Status(Code::kResourceExhausted, "--concurrency " + std::to_string(options_.concurrency) +
                                               ": the system gives no more than " + std::to_string(workers.size() + 1) +
                                               " threads (" + error.what() + "); take fewer");
    }
    for (std::thread& worker : workers) worker.join();
    deadline.reset();
    for (Status& status : statuses) {
      if (!status.ok()) return std::move(status);
    }
    result.wall_s = seconds(Clock::now() - begin_);
    result.after = read_cpu_clock();
    result.threads = thread_count();
    result.peak_rss = peak_rss_bytes();
    std::vector<double> all;
    for (const std::vector<double>& part : samples) all.insert(all.end(), part.begin(), part.end());
    result.runs = all.size();
    result.latency = describe(std::move(all));
    return options_.profile ? profile(*outputs[0], result) : Status();
  }

 private:
  // So that no thread waits for one that will never be there.
  void give_up() {
    failed_.store(true);
    started_.store(true, std::memory_order_release);
  }

  Status work(BoundOutputs& outputs, std::vector<double>& samples) {
    try {
      return warm_up_and_measure(outputs, samples);
    } catch (const std::bad_alloc&) {  // a thread must not end by an exception
      give_up();
      return Status(Code::kResourceExhausted, "out of memory");
    }
  }

  // Warms up, waits for the others, and runs until the time is over, at least once.
  Status warm_up_and_measure(BoundOutputs& outputs, std::vector<double>& samples) {
    Status status;
    for (unsigned i = 0; i < options_.warmup && status.ok(); ++i) {
      status = runner_.run(inputs_.values, outputs.prepare(), run_options(options_));
    }
    if (!status.ok()) failed_.store(true);
    samples.reserve(1U << 16U);
    if (warm_.fetch_add(1) + 1 == options_.concurrency) {
      begin_ = Clock::now();
      started_.store(true, std::memory_order_release);
    }
    while (!started_.load(std::memory_order_acquire)) std::this_thread::yield();
    const std::chrono::duration<double> time(std::min(options_.seconds, kLongestSeconds));
    const Clock::time_point end = begin_ + std::chrono::duration_cast<Clock::duration>(time);
    while (!failed_.load(std::memory_order_relaxed)) {
      const edgebuild::RunOptions run = run_options(options_);
      const std::span<Value> bound = outputs.prepare();
      const Clock::time_point start = Clock::now();
      status = runner_.run(inputs_.values, bound, run);
      const Clock::time_point stop = Clock::now();
      if (!status.ok()) {
        failed_.store(true);
        break;
      }
      samples.push_back(seconds(stop - start));
      if (stop >= end) break;
    }
    return status;
  }

  // After the measured part, since profiling itself costs time.
  Status profile(BoundOutputs& outputs, Measurement& result) {
    constexpr int kRuns = 10;
    for (int i = 0; i < kRuns; ++i) {
      edgebuild::RunOptions run = run_options(options_);
      run.profile = true;
      const HardDeadline deadline(options_);
      EDGEBUILD_RETURN_IF_ERROR(runner_.run(inputs_.values, outputs.prepare(), run));
    }
    Result<std::vector<ProfileEntry>> entries = runner_.profile();
    if (!entries.ok()) return entries.status();
    result.profile = std::move(entries).value();
    return {};
  }

  const BenchOptions& options_;
  Runner& runner_;
  const LoadedInputs& inputs_;
  Clock::time_point begin_;
  std::atomic<unsigned> warm_ = 0;
  std::atomic<bool> started_ = false;
  std::atomic<bool> failed_ = false;
};

double total_ns(const std::vector<ProfileEntry>& profile) {
  double total = 0.0;
  for (const ProfileEntry& entry : profile) total += static_cast<double>(entry.duration_ns);
  return total;
}

void write_clock(JsonWriter& json, const char* name, const CpuClock& clock) {
  json.key(name).begin_object().member("governor", clock.governor).key("frequency_hz");
  if (clock.frequency_hz) {
    json.value(*clock.frequency_hz);
  } else {
    json.value("unknown");
  }
  json.end_object();
}

std::string to_json(const BenchOptions& options, const Runner& runner, const Measurement& m) {
  JsonWriter json;
  json.begin_object().member("schema", "edgebuild.bench/1").member("bundle_id", runner.bundle_id());
  write_choice(json, runner);
  json.member("runs", m.runs).member("wall_s", m.wall_s).member("warmup", options.warmup);
  json.member("concurrency", options.concurrency).key("engine_threads");
  if (options.threads) {
    json.value(*options.threads);
  } else {
    json.null();
  }
  json.member("process_threads", m.threads);
  json.key("latency_s").begin_object().member("mean", m.latency.mean).member("std", m.latency.std);
  json.member("min", m.latency.min).member("p50", m.latency.p50).member("p90", m.latency.p90);
  json.member("p95", m.latency.p95).member("p99", m.latency.p99).member("max", m.latency.max).end_object();
  json.member("throughput_per_s", static_cast<double>(m.runs) / m.wall_s).member("load_s", m.load_s);
  json.member("first_result_s", m.first_result_s).member("peak_rss_bytes", m.peak_rss);
  json.key("cpu")
      .begin_object()
      .member("model", edgebuild::runner::probe_machine().cpu_model)
      .member("usable", cpu_count());
  write_clock(json, "before", m.before);
  write_clock(json, "after", m.after);
  json.end_object();
  if (options.profile) {
    const double total = total_ns(m.profile);
    json.key("profile").begin_array();
    for (const ProfileEntry& entry : m.profile) {
      const auto ns = static_cast<double>(entry.duration_ns);
      json.begin_object()
          .member("node", entry.node)
          .member("operator", entry.op_type)
          .member("provider", entry.provider);
      json.member("calls", entry.calls).member("total_s", ns * 1e-9);
      json.member("share", total > 0.0 ? ns / total : 0.0).end_object();
    }
    json.end_array();
  }
  json.member("exit_code", 0).end_object();
  return json.text() + "\n";
}

std::string clock_text(const CpuClock& clock) {
  const std::string frequency =
      clock.frequency_hz ? format("%.0f MHz", static_cast<double>(*clock.frequency_hz) * 1e-6) : "unknown";
  return frequency + ", governor " + clock.governor;
}

std::string to_text(const BenchOptions& options, const Runner& runner, const Measurement& m) {
  std::string text = bold("latency") + format("  %s, %zu runs, %u at a time\n", runner.variant_name().c_str(), m.runs,
                                              options.concurrency);
  const auto row = [&](const char* name, const std::string& value) {
    text += format("  %-14s %s\n", name, value.c_str());
  };
  row("mean", format_seconds(m.latency.mean) + ", std " + format_seconds(m.latency.std));
  row("min", format_seconds(m.latency.min));
  row("p50", format_seconds(m.latency.p50));
  row("p90", format_seconds(m.latency.p90));
  row("p95", format_seconds(m.latency.p95));
  row("p99", format_seconds(m.latency.p99));
  row("max", format_seconds(m.latency.max));
  row("throughput", format("%.1f /s", static_cast<double>(m.runs) / m.wall_s));
  text += heading("process");
  row("load", format_seconds(m.load_s));
  row("first result", format_seconds(m.first_result_s) + " after the start");
  row("peak RSS", format_bytes(m.peak_rss));
  row("threads", format("%llu in the process, engine: %s", static_cast<unsigned long long>(m.threads),
                        options.threads ? std::to_string(*options.threads).c_str() : "the variant's"));
  text += heading("processor");
  row("model", edgebuild::runner::probe_machine().cpu_model);
  row("before", clock_text(m.before));
  row("after", clock_text(m.after));
  if (!options.profile) return text;
  std::vector<ProfileEntry> sorted = m.profile;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.duration_ns > b.duration_ns; });
  constexpr std::size_t kRows = 20;
  const double total = total_ns(sorted);
  Table table({{"node", {}}, {"operator", {}}, {"time a run", Table::Align::kRight}, {"share", Table::Align::kRight}},
              0);
  for (std::size_t i = 0; i < std::min(kRows, sorted.size()); ++i) {
    const auto ns = static_cast<double>(sorted[i].duration_ns);
    const auto calls = static_cast<double>(std::max<std::uint64_t>(sorted[i].calls, 1));
    table.add({sorted[i].node, sorted[i].op_type, format_seconds(ns * 1e-9 / calls),
               format("%.1f %%", total > 0.0 ? 100.0 * ns / total : 0.0)});
  }
  text += heading("profile") + table.text();
  if (sorted.size() > kRows) text += format("  and %zu more; --json has all\n", sorted.size() - kRows);
  return text;
}

}  // namespace

Status bench_command(const BenchOptions& options) {
  BenchOptions effective = options;
  if (options.threads) effective.options["intra_op_threads"] = std::to_string(*options.threads);
  Measurement result;
  const Clock::time_point start = Clock::now();
  Result<Runner> runner = load_runner(effective);
  if (!runner.ok()) return runner.status();
  result.load_s = seconds(Clock::now() - start);
  Result<LoadedInputs> inputs = inputs_or_golden(effective.bundle, effective.inputs, runner.value());
  if (!inputs.ok()) return inputs.status();
  EDGEBUILD_RETURN_IF_ERROR(Bench(effective, runner.value(), inputs.value()).measure(result));
  return print(options.json ? to_json(effective, runner.value(), result) : to_text(effective, runner.value(), result));
}

}  // namespace edgerun
