// tune: measures what can run here and keeps the order, so that later loads try the fastest first.

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "command.hpp"
#include "loader.hpp"
#include "machine.hpp"
#include "measure.hpp"
#include "order.hpp"
#include "ranking.hpp"
#include "runner/requirements.hpp"
#include "statistics.hpp"
#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::bundle::Bundle;
using edgebuild::runner::TunedVariant;
using edgebuild::runner::Tuning;
using edgebuild::runner::TuningKey;

// Above this share of the processors, others' work shows in the figures.
constexpr double kBusyShare = 0.5;

// One thread count, measured and kept.
struct Outcome {
  unsigned threads = 0;
  std::vector<Subject> subjects;
  std::vector<std::string> order;  // of those that ran
  bool changed = false;            // against the manifest's order
  std::string file;
};

TunedVariant tuned_variant(const Subject& subject) {
  TunedVariant variant;
  variant.name = subject.variant->name;
  variant.engine_version = subject.engine_version;
  variant.agrees = subject.usable();
  if (subject.seconds.empty()) return variant;
  std::vector<double> sorted = subject.seconds;
  std::sort(sorted.begin(), sorted.end());
  variant.median_s = percentile(sorted, 50);
  variant.p25_s = percentile(sorted, 25);
  variant.p75_s = percentile(sorted, 75);
  return variant;
}

// The fastest first; then, untimed, those whose numbers are wrong here.
std::vector<const Subject*> preferred(const std::vector<Subject>& subjects) {
  std::vector<const Subject*> timed;
  std::vector<std::vector<double>> rounds;
  for (const Subject& subject : subjects) {
    if (subject.seconds.empty()) continue;
    timed.push_back(&subject);
    rounds.push_back(subject.seconds);
  }
  std::vector<const Subject*> order;
  for (const std::size_t index : rank(rounds)) order.push_back(timed[index]);
  for (const Subject& subject : subjects) {
    if (subject.skipped.empty() && !subject.usable()) order.push_back(&subject);
  }
  return order;
}

std::string threads_text(unsigned threads) {
  return threads == 0 ? "the variants' own threads" : std::to_string(threads) + (threads == 1 ? " thread" : " threads");
}

std::string with_commas(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text.append(text.empty() ? "" : ", ").append(name);
  return text;
}

// Against the first variant of the manifest that was timed.
Ratio against_first(const Outcome& outcome, const Subject& subject) {
  for (const Subject& first : outcome.subjects) {
    if (!first.seconds.empty()) return speed_ratio(first.seconds, subject.seconds);
  }
  return {};
}

const char* result_of(const Subject& subject) {
  return !subject.skipped.empty() ? "skipped" : subject.usable() ? "ok" : "outside";
}

class Tuner {
 public:
  Tuner(const TuneOptions& options, const Bundle& bundle)
      : options_(options),
        bundle_(bundle),
        folder_(options.state_dir.empty() ? edgebuild::runner::default_state_dir(bundle.id()) : options.state_dir) {}

  Status run() {
    if (folder_.empty()) {
      return {Code::kUsage,
              "there is no state folder: neither XDG_STATE_HOME nor HOME is an absolute path; give "
              "--state-dir DIR"};
    }
    load_before_ = load_average();
    if (busy()) {
      std::fprintf(stderr,
                   "edgerun: warning: other programs keep this machine busy (load %.1f, %u processors): figures may "
                   "not hold, tune again when it is idle\n",
                   *load_before_, cpu_count());
    }
    for (const unsigned threads : options_.threads) EDGEBUILD_RETURN_IF_ERROR(tune(threads));
    load_after_ = load_average();
    return {};
  }

  [[nodiscard]] std::string failure() const {
    for (const Outcome& outcome : outcomes_) {
      for (const Subject& subject : outcome.subjects) {
        std::string text = describe_failure(bundle_, subject.variant->name, subject.goldens);
        if (!text.empty()) return text + "; it is tried last from now on";
      }
    }
    return {};
  }

  [[nodiscard]] std::string to_json() const {
    JsonWriter json;
    json.begin_object().member("schema", "edgebuild.tune/1").member("bundle_id", bundle_.id());
    json.member("goldens", bundle_.manifest().goldens.size());
    json.key("cpu").begin_object().member("model", edgebuild::runner::probe_machine().cpu_model);
    json.member("usable", cpu_count()).key("load_before");
    write_load(json, load_before_);
    json.key("load_after");
    write_load(json, load_after_);
    json.member("busy", busy()).end_object().key("tunings").begin_array();
    for (const Outcome& outcome : outcomes_) write_outcome(json, outcome);
    json.end_array();
    const std::string wrong = failure();
    const int code = wrong.empty() ? 0 : edgebuild::exit_code(Code::kGateFailed);
    if (!wrong.empty()) {
      json.key("error").begin_object().member("code", edgebuild::code_name(Code::kGateFailed));
      json.member("message", wrong).key("hint").null().end_object();
    }
    json.member("exit_code", code).end_object();
    return json.text() + "\n";
  }

  [[nodiscard]] std::string to_text() const {
    std::string text;
    for (const Outcome& outcome : outcomes_) {
      Table table({{"variant", {}},
                   {"goldens", {}},
                   {"median", Table::Align::kRight},
                   {"quartiles", Table::Align::kRight},
                   {"speed", Table::Align::kRight}},
                  0);
      const bool none = bundle_.manifest().goldens.empty();
      for (const Subject& subject : outcome.subjects) {
        const TunedVariant measured = tuned_variant(subject);
        const bool timed = !subject.seconds.empty();
        table.add({subject.variant->name, none && timed ? "none" : result_of(subject),
                   timed ? format_seconds(measured.median_s) : "-",
                   timed ? format_seconds(measured.p25_s) + " - " + format_seconds(measured.p75_s) : "-",
                   timed ? format("%.2fx", against_first(outcome, subject).median) : "-"});
      }
      text += (text.empty() ? bold("tuned") : "\n" + bold("tuned")) + "  for " + threads_text(outcome.threads) + "\n";
      text += table.text();
      for (const Subject& subject : outcome.subjects) {
        if (!subject.skipped.empty())
          text += "  " + subject.variant->name + " can't run here: " + subject.skipped + "\n";
      }
      text += "  order: " + with_commas(outcome.order) +
              (outcome.changed ? " (not the target's)" : " (the target's: none is slower than one behind it)") + "\n";
      text += "  kept in " + outcome.file + "\n";
    }
    return text;
  }

 private:
  [[nodiscard]] bool busy() const { return load_before_ && *load_before_ > kBusyShare * cpu_count(); }

  static void write_load(JsonWriter& json, const std::optional<double>& load) {
    if (load) {
      json.value(*load);
    } else {
      json.null();
    }
  }

  Status tune(unsigned threads) {
    std::fprintf(stderr, "edgerun: measuring %zu variants with %s\n", bundle_.manifest().variants.size(),
                 threads_text(threads).c_str());
    Meter meter(options_, bundle_, threads);
    EDGEBUILD_RETURN_IF_ERROR(meter.check());
    Outcome outcome;
    outcome.threads = threads;
    EDGEBUILD_RETURN_IF_ERROR(meter.measure());
    outcome.subjects = meter.subjects();
    Tuning tuning;
    tuning.key = edgebuild::runner::tuning_key(bundle_.id(), edgebuild::runner::probe_machine(), threads);
    for (const Subject* subject : preferred(outcome.subjects)) {
      tuning.variants.push_back(tuned_variant(*subject));
      outcome.order.push_back(subject->variant->name);
    }
    if (tuning.variants.empty()) return {Code::kIncompatible, "no variant can run here: " + reasons(outcome.subjects)};
    std::vector<std::string> names;
    for (const Subject& subject : outcome.subjects) {
      if (subject.skipped.empty()) names.push_back(subject.variant->name);
    }
    outcome.changed = names != outcome.order;
    Result<std::string> file = edgebuild::runner::write_tuning(folder_, tuning);
    if (!file.ok()) return file.status();
    outcome.file = std::move(file).value();
    outcomes_.push_back(std::move(outcome));
    return {};
  }

  static std::string reasons(const std::vector<Subject>& subjects) {
    std::string text;
    for (const Subject& subject : subjects) {
      text.append(text.empty() ? "" : "; ").append(subject.variant->name).append(": ").append(subject.skipped);
    }
    return text;
  }

  static void write_outcome(JsonWriter& json, const Outcome& outcome) {
    json.begin_object().member("threads", outcome.threads).member("file", outcome.file);
    json.member("changed", outcome.changed).key("order").begin_array();
    for (const std::string& name : outcome.order) json.value(name);
    json.end_array().key("variants").begin_array();
    for (const Subject& subject : outcome.subjects) {
      json.begin_object().member("variant", subject.variant->name).member("result", result_of(subject));
      if (!subject.skipped.empty()) json.member("reason", subject.skipped);
      if (subject.skipped.empty()) json.member("engine_version", subject.engine_version);
      json.member("rounds", subject.seconds.size());
      if (!subject.seconds.empty()) {
        const TunedVariant measured = tuned_variant(subject);
        const Ratio speed = against_first(outcome, subject);
        json.member("median_s", measured.median_s).member("p25_s", measured.p25_s).member("p75_s", measured.p75_s);
        json.key("speed").begin_object().member("ratio", speed.median).member("low", speed.low);
        json.member("high", speed.high).end_object();
      }
      json.end_object();
    }
    json.end_array().end_object();
  }

  const TuneOptions& options_;
  const Bundle& bundle_;
  std::string folder_;
  std::optional<double> load_before_;
  std::optional<double> load_after_;
  std::vector<Outcome> outcomes_;
};

}  // namespace

Status tune_command(const TuneOptions& options, int& exit_code) {
  Result<Bundle> bundle = Bundle::open(options.bundle);
  if (!bundle.ok()) return bundle.status();
  EDGEBUILD_RETURN_IF_ERROR(enter_loader(bundle.value()));
  Tuner tuner(options, bundle.value());
  EDGEBUILD_RETURN_IF_ERROR(tuner.run());
  EDGEBUILD_RETURN_IF_ERROR(print(options.json ? tuner.to_json() : tuner.to_text()));
  const std::string wrong = tuner.failure();
  if (wrong.empty()) return {};
  exit_code = edgebuild::exit_code(Code::kGateFailed);
  if (options.json) return {};
  return {Code::kGateFailed, wrong};
}

}  // namespace edgerun
