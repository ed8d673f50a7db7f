#include "measure.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "runner/requirements.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using Clock = std::chrono::steady_clock;
using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::Value;
using edgebuild::bundle::Variant;

constexpr std::size_t kFewestRounds = 7;  // fewer give no 95 % interval
constexpr std::size_t kMostRounds = 31;
constexpr double kTurnSeconds = 0.02;  // so long that the clock's own steps vanish
// Before a turn: threads of the one before stop spinning, then this one's caches fill and the clock speeds up.
constexpr auto kRest = std::chrono::milliseconds(2);
constexpr double kWarmUpSeconds = 0.005;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

bool cannot_run_here(Code code) {
  return code == Code::kIncompatible || code == Code::kUnsupported || code == Code::kNotFound ||
         code == Code::kResourceExhausted;
}

// What no free memory would change.
std::optional<std::string> lacks(const Variant& variant) {
  edgebuild::runner::Machine machine = edgebuild::runner::probe_machine();
  machine.free_memory.reset();
  return edgebuild::runner::missing_requirement(variant.requires_, machine);
}

}  // namespace

Meter::Meter(const TuneOptions& options, const edgebuild::bundle::Bundle& bundle, unsigned threads)
    : options_(options), bundle_(bundle), threads_(threads) {
  for (const Variant& variant : bundle.manifest().variants) {
    subjects_.emplace_back();
    subjects_.back().variant = &variant;
    loaded_.emplace_back();
  }
}

void Meter::unload_all() {
  for (std::unique_ptr<Loaded>& one : loaded_) one.reset();
}

void Meter::leave(std::size_t index) {
  if (!all_fit_) loaded_[index].reset();
}

Status Meter::try_load(std::size_t index) {
  edgebuild::LoadOptions load = load_options(options_);
  load.variant = subjects_[index].variant->name;
  load.allow_fallback = false;
  if (threads_ > 0) load.options["intra_op_threads"] = std::to_string(threads_);
  Result<Runner> runner = load_bundle(options_, load);
  if (!runner.ok()) return runner.status();
  loaded_[index] = std::make_unique<Loaded>(std::move(runner).value());
  return {};
}

Status Meter::load(std::size_t index) {
  if (loaded_[index] != nullptr) return {};
  if (!all_fit_) unload_all();
  Status status = try_load(index);
  const bool alone = std::none_of(loaded_.begin(), loaded_.end(), [](const auto& one) { return one != nullptr; });
  if (status.ok() || alone || !cannot_run_here(status.code())) return status;
  unload_all();
  status = try_load(index);
  if (status.ok()) all_fit_ = false;
  return status;
}

Status Meter::check() {
  for (std::size_t i = 0; i < subjects_.size(); ++i) {
    Subject& subject = subjects_[i];
    if (const std::optional<std::string> missing = lacks(*subject.variant)) {
      subject.skipped = *missing;
      continue;
    }
    const Status status = load(i);
    if (!status.ok()) {
      if (!cannot_run_here(status.code())) return status;
      subject.skipped = why_not(status, options_.bundle, subject.variant->name);
      continue;
    }
    Runner& runner = loaded_[i]->runner;
    subject.engine_version = runner.engine_version();
    for (std::size_t golden = 0; golden < bundle_.manifest().goldens.size(); ++golden) {
      const HardDeadline deadline(options_);
      EDGEBUILD_RETURN_IF_ERROR(
          compare_golden(runner, bundle_, *subject.variant, golden, run_options(options_), subject.goldens));
    }
    if (inputs_.values.empty()) {
      Result<LoadedInputs> inputs = inputs_or_golden(options_.bundle, options_.inputs, runner);
      if (!inputs.ok()) return inputs.status();
      inputs_ = std::move(inputs).value();
    }
    leave(i);
  }
  return {};
}

Status Meter::run(std::size_t index) {
  Loaded& one = *loaded_[index];
  if (one.outputs != nullptr) return one.runner.run(inputs_.values, one.outputs->prepare(), run_options(options_));
  std::vector<Value> first(one.runner.signature().outputs.size());
  EDGEBUILD_RETURN_IF_ERROR(one.runner.run(inputs_.values, first, run_options(options_)));
  one.outputs = std::make_unique<BoundOutputs>(first);
  return {};
}

Status Meter::take_turn(std::size_t index, std::size_t repeats, double* seconds) {
  EDGEBUILD_RETURN_IF_ERROR(load(index));
  std::this_thread::sleep_for(kRest);
  const double runs = static_cast<double>(repeats + 1);
  std::optional<HardDeadline> deadline(std::in_place, options_,
                                       kWarmUpSeconds + options_.deadline.value_or(0.0) * runs);
  const Clock::time_point warm = Clock::now();
  do {
    EDGEBUILD_RETURN_IF_ERROR(run(index));
  } while (since(warm) < kWarmUpSeconds);
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < repeats; ++i) EDGEBUILD_RETURN_IF_ERROR(run(index));
  *seconds = std::max(since(start), 1e-9) / static_cast<double>(repeats);
  deadline.reset();
  leave(index);
  return {};
}

Status Meter::measure() {
  std::vector<std::size_t> turns;
  std::vector<std::size_t> repeats(subjects_.size(), 1);
  for (std::size_t i = 0; i < subjects_.size(); ++i) {
    if (!subjects_[i].usable()) continue;
    turns.push_back(i);
    double once = 0.0;
    EDGEBUILD_RETURN_IF_ERROR(take_turn(i, 1, &once));
    repeats[i] = static_cast<std::size_t>(std::clamp(std::round(kTurnSeconds / once), 1.0, 1e6));
  }
  const bool terminal = !options_.json && use_colour(STDERR_FILENO);
  const Clock::time_point start = Clock::now();
  for (std::size_t round = 0; round < kMostRounds && !turns.empty(); ++round) {
    if (round >= kFewestRounds && since(start) > options_.seconds) break;
    if (terminal) std::fprintf(stderr, "\rmeasuring: round %zu of at most %zu", round + 1, kMostRounds);
    for (const std::size_t index : turns) {
      double seconds = 0.0;
      EDGEBUILD_RETURN_IF_ERROR(take_turn(index, repeats[index], &seconds));
      subjects_[index].seconds.push_back(seconds);
    }
    std::reverse(turns.begin(), turns.end());  // so that a drift favours none
  }
  if (terminal) std::fprintf(stderr, "\r\x1b[K");
  unload_all();
  return {};
}

}  // namespace edgerun
