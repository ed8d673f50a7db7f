#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "bundle/bundle.hpp"
#include "command.hpp"
#include "golden.hpp"
#include "loader.hpp"
#include "order.hpp"
#include "table.hpp"
#include "told_progress.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::bundle::Bundle;
using edgebuild::bundle::Tolerance;
using edgebuild::bundle::Variant;

struct VariantReport {
  std::string name;
  std::string skipped;  // why it can't run here; empty: it ran
  std::string engine_version;
  std::vector<OutputReport> outputs;

  [[nodiscard]] bool agrees() const { return all_agree(outputs); }
};

class Verifier {
 public:
  Verifier(const VerifyOptions& options, const Bundle& bundle) : options_(options), bundle_(bundle) {}

  Status run() {
    EDGEBUILD_RETURN_IF_ERROR(verify_files());
    bool ran = false;
    for (const Variant& variant : bundle_.manifest().variants) {
      if (!is_chosen(variant)) continue;
      EDGEBUILD_RETURN_IF_ERROR(verify_variant(variant));
      ran = ran || reports_.back().skipped.empty();
    }
    if (reports_.empty()) return {Code::kUsage, "no variant matches; the bundle has " + variant_names()};
    if (!ran) {
      std::string reasons;
      for (const VariantReport& report : reports_) reasons.append(reasons.empty() ? "" : "; ").append(report.skipped);
      return {Code::kIncompatible, "no variant can run here: " + reasons};
    }
    return {};
  }

  [[nodiscard]] bool agrees() const {
    for (const VariantReport& report : reports_) {
      if (!report.agrees()) return false;
    }
    return true;
  }

  // One line that names the worst output.
  [[nodiscard]] std::string failure() const {
    for (const VariantReport& report : reports_) {
      std::string text = describe_failure(bundle_, report.name, report.outputs);
      if (!text.empty()) return text;
    }
    return {};
  }

  [[nodiscard]] std::string to_json() const {
    const auto& signature = bundle_.manifest().signature;
    JsonWriter json;
    json.begin_object().member("schema", "edgebuild.verify/1").member("bundle_id", bundle_.id());
    json.member("files", bundle_.manifest().files.size()).member("bytes", bytes_).member("hashes", "ok");
    json.member("goldens", bundle_.manifest().goldens.size());
    write_order(json, bundle_.manifest(), order());
    json.key("variants").begin_array();
    for (const VariantReport& report : reports_) {
      json.begin_object().member("variant", report.name);
      json.member("result", !report.skipped.empty() ? "skipped" : !report.agrees() ? "outside" : "ok");
      if (!report.skipped.empty()) json.member("reason", report.skipped);
      if (report.skipped.empty()) json.member("engine_version", report.engine_version);
      json.key("outputs").begin_array();
      for (std::size_t i = 0; i < report.outputs.size(); ++i) {
        write_output(json, signature.outputs[i].name, tolerance(report.name, signature.outputs[i].name),
                     report.outputs[i]);
      }
      json.end_array().end_object();
    }
    json.end_array().member("ok", agrees());
    const int code = agrees() ? 0 : edgebuild::exit_code(Code::kGateFailed);
    if (!agrees()) {
      json.key("error").begin_object().member("code", edgebuild::code_name(Code::kGateFailed));
      json.member("message", failure()).key("hint").null().end_object();
    }
    json.member("exit_code", code).end_object();
    return json.text() + "\n";
  }

  [[nodiscard]] std::string to_text() const {
    const auto& manifest = bundle_.manifest();
    std::string text =
        bold("files") + format("  %zu, %s: every hash is right\n", manifest.files.size(), format_bytes(bytes_).c_str());
    text += bold("goldens") + (manifest.goldens.empty() ? "  none in this bundle: numbers were not checked\n"
                                                        : format("  %zu\n", manifest.goldens.size()));
    Table table({{"variant", {}},
                 {"output", {}},
                 {"result", {}},
                 {"worst error", Table::Align::kRight},
                 {"allowed", Table::Align::kRight},
                 {"at", {}}},
                1);
    for (const VariantReport& report : reports_) {
      if (!report.skipped.empty()) {
        table.add({report.name, "-", "skipped", "-", "-", "-"});
        continue;
      }
      if (report.outputs.empty()) table.add({report.name, "-", "loads", "-", "-", "-"});
      for (std::size_t i = 0; i < report.outputs.size(); ++i) {
        const Comparison& c = report.outputs[i].comparison;
        table.add({report.name, manifest.signature.outputs[i].name, c.agrees() ? "ok" : "OUTSIDE",
                   format("%.3g", c.worst.error), format("%.3g", c.worst.allowed), index_text(c.worst.index)});
      }
    }
    text.append("\n").append(table.text());
    for (const VariantReport& report : reports_) {
      if (!report.skipped.empty()) text += "  " + report.name + " can't run here: " + report.skipped + "\n";
    }
    return text + heading("order") + order_text(bundle_.manifest(), order());
  }

 private:
  [[nodiscard]] edgebuild::runner::VariantOrder order() const { return held_order(bundle_, options_); }

  [[nodiscard]] bool is_chosen(const Variant& variant) const {
    return (options_.backend.empty() || variant.backend == options_.backend) &&
           (options_.variant.empty() || variant.name == options_.variant);
  }

  [[nodiscard]] std::string variant_names() const {
    std::string names;
    for (const Variant& variant : bundle_.manifest().variants) {
      names.append(names.empty() ? "" : ", ").append(variant.name).append(" (").append(variant.backend).append(")");
    }
    return names;
  }

  [[nodiscard]] Tolerance tolerance(const std::string& variant, const std::string& output) const {
    for (const Variant& candidate : bundle_.manifest().variants) {
      if (candidate.name == variant) return tolerance_of(candidate, output);
    }
    return {};
  }

  Status verify_files() {
    const bool terminal = !options_.json && use_colour(STDERR_FILENO);
    std::uint64_t shown = 0;  // a percentage; the end is not shown, it is wiped out at once
    const Status status = bundle_.verify([&](const std::string&, std::uint64_t done, std::uint64_t total) {
      bytes_ = total;
      if (!terminal || total == 0) return;
      const auto percent = static_cast<std::uint64_t>(100.0 * static_cast<double>(done) / static_cast<double>(total));
      if (percent != shown && percent < 100) std::fprintf(stderr, "\rhashing %3u %%", static_cast<unsigned>(percent));
      shown = percent;
    });
    if (terminal) std::fprintf(stderr, "\r\x1b[K");
    return status;
  }

  Status verify_variant(const Variant& variant) {
    VariantReport report;
    report.name = variant.name;
    edgebuild::LoadOptions load = load_options(options_);
    load.variant = variant.name;
    load.allow_fallback = false;
    Result<Runner> runner = load_bundle(options_, load);
    const bool must_run =
        options_.all_variants || options_.no_fallback || !options_.backend.empty() || !options_.variant.empty();
    if (!runner.ok()) {
      if (runner.status().code() != Code::kIncompatible) return runner.status();
      report.skipped = why_not(runner.status(), options_.bundle, variant.name);
      if (must_run) {
        return Status(Code::kIncompatible,
                      options_.bundle + ": variant " + variant.name + " can't run here: " + report.skipped);
      }
      reports_.push_back(std::move(report));
      return {};
    }
    report.engine_version = runner.value().engine_version();
    const auto& variants = bundle_.manifest().variants;
    const auto chosen = static_cast<std::size_t>(
        std::count_if(variants.begin(), variants.end(), [&](const Variant& each) { return is_chosen(each); }));
    const std::size_t goldens = bundle_.manifest().goldens.size();
    for (std::size_t i = 0; i < goldens; ++i) {
      const HardDeadline deadline(options_);
      EDGEBUILD_RETURN_IF_ERROR(
          compare_golden(runner.value(), bundle_, variant, i, run_options(options_), report.outputs));
      tell_progress(reports_.size() * goldens + i + 1, chosen * goldens);
    }
    reports_.push_back(std::move(report));
    return {};
  }

  static void write_output(JsonWriter& json, const std::string& name, const Tolerance& allowed,
                           const OutputReport& report) {
    const Comparison& comparison = report.comparison;
    json.begin_object().member("output", name).member("ok", comparison.agrees()).member("golden", report.golden);
    json.key("tolerance").begin_object().member("atol", allowed.atol).member("rtol", allowed.rtol).end_object();
    json.member("elements", comparison.elements)
        .member("outside", comparison.outside)
        .member("max_error", comparison.max_error);
    if (!comparison.structure_error.empty()) json.member("structure_error", comparison.structure_error);
    json.key("worst");
    if (comparison.elements == 0) {
      json.null().end_object();
      return;
    }
    json.begin_object().key("index").begin_array();
    for (const std::int64_t i : comparison.worst.index) json.value(i);
    json.end_array().member("error", comparison.worst.error).member("allowed", comparison.worst.allowed);
    json.member("got", comparison.worst.got).member("golden", comparison.worst.golden).end_object().end_object();
  }

  const VerifyOptions& options_;
  const Bundle& bundle_;
  std::uint64_t bytes_ = 0;
  std::vector<VariantReport> reports_;
};

}  // namespace

Status verify_command(const VerifyOptions& options, int& exit_code) {
  Result<Bundle> bundle = Bundle::open(options.bundle);
  if (!bundle.ok()) return bundle.status();
  // Now, before anything is hashed twice. If the loader does not start, no variant will run, and each then says so.
  const Status entered = enter_loader(bundle.value());
  if (!entered.ok() && entered.code() != Code::kIncompatible) return entered;
  Verifier verifier(options, bundle.value());
  EDGEBUILD_RETURN_IF_ERROR(verifier.run());
  EDGEBUILD_RETURN_IF_ERROR(print(options.json ? verifier.to_json() : verifier.to_text()));
  if (verifier.agrees()) return {};
  exit_code = edgebuild::exit_code(Code::kGateFailed);
  if (!options.json) return {Code::kGateFailed, verifier.failure()};
  return {};
}

}  // namespace edgerun
