// Which variant a load takes.

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "edgebuild/edgebuild.h"
#include "reference_model.hpp"
#include "runner/tuning.hpp"

namespace {

using namespace edgebuild;           // NOLINT
using namespace edgebuild::testing;  // NOLINT

TEST_CASE("the first variant that can run here wins, and the others' reasons are kept") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  static_cast<void>(bundle.add_variant("second"));
  bundle.variant()["requires"]["cpu_features"] = {"antigravity"};
  const std::string path = bundle.write();
  LoadOptions options;
  std::vector<std::string> lines;
  options.log = [&](eb_severity severity, std::string_view line) {
    if (severity >= EB_LOG_WARNING) lines.emplace_back(line);
  };
  Runner runner = load_or_die(path, options);
  CHECK(runner.variant_name() == "second");
  REQUIRE(runner.passed_over().size() == 1);
  CHECK(runner.passed_over()[0].reason == "this CPU lacks antigravity");
  CHECK(lines == std::vector<std::string>{"variant first is passed over: this CPU lacks antigravity"});
  options.allow_fallback = false;
  CHECK(Runner::load(path, options).status().code() == Code::kIncompatible);
  options.variant = "third";
  const Status unknown = Runner::load(path, options).status();
  CHECK(unknown.code() == Code::kUsage);
  CHECK(unknown.message().find("no variant 'third'; it has first, second") != std::string::npos);
}

TEST_CASE("an option that the backend does not know is a usage error") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  LoadOptions options;
  options.options["speed"] = "11";
  CHECK(Runner::load(bundle.write(), options).status().code() == Code::kUsage);
}

TEST_CASE("a bundle for another architecture is refused, naming both") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  bundle.manifest()["target"]["arch"] =
      std::string(bundle.manifest()["target"]["arch"]) == "riscv64" ? "aarch64" : "riscv64";
  const Status status = Runner::load(bundle.write()).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(status.message().find("this process is") != std::string::npos);
}

TEST_CASE("a state folder that is a file is refused, one that is not there yet is not made") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  const std::string path = bundle.write();
  LoadOptions options;
  options.state_dir = path + "/manifest.json";
  const Result<Runner> refused = Runner::load(path, options);
  REQUIRE(!refused.ok());
  CHECK(refused.status().code() == Code::kUsage);
  CHECK(refused.status().message() ==
        "state folder " + options.state_dir + ": expected a folder, it is something else");
  options.state_dir = path + "-state";
  CHECK(Runner::load(path, options).ok());
  CHECK(!std::filesystem::exists(options.state_dir));
}

/// A bundle whose variants are "first", "second" and "third", all alike.
std::string three_alike(RunnerBundle& bundle) {
  describe_affine(bundle);
  static_cast<void>(bundle.add_variant("second"));
  static_cast<void>(bundle.add_variant("third"));
  return bundle.write();
}

/// As `edgerun tune` would keep it here.
runner::Tuning tuning_of(const Runner& runner, const std::vector<std::string>& order, unsigned threads = 0) {
  runner::Tuning tuning;
  tuning.key = runner::tuning_key(runner.bundle_id(), runner::probe_machine(), threads);
  for (const std::string& name : order)
    tuning.variants.push_back({name, runner.engine_version(), true, 1e-3, 1e-3, 2e-3});
  return tuning;
}

TEST_CASE("variants are tried in the tuned order, unless tuning is switched off") {
  RunnerBundle bundle("reference", kAffine);
  const std::string path = three_alike(bundle);
  const TemporaryFolder state;
  LoadOptions options;
  options.state_dir = state.path().string();
  const Runner before = load_or_die(path, options);
  CHECK(before.variant_name() == "first");
  CHECK(before.variant_order().find("the target's: not tuned on this machine for the variants' own threads") == 0);
  REQUIRE(runner::write_tuning(options.state_dir, tuning_of(before, {"third", "first", "second"})).ok());

  const Runner tuned = load_or_die(path, options);
  CHECK(tuned.variant_name() == "third");
  CHECK(tuned.passed_over().empty());
  CHECK(tuned.variant_order() ==
        "as tuned on this machine for the variants' own threads (" + options.state_dir + "/tuning-default.json)");
  options.tuning = false;
  const Runner off = load_or_die(path, options);
  CHECK(off.variant_name() == "first");
  CHECK(off.variant_order() == "the target's: tuning is switched off");
  options.tuning = true;
  options.variant = "second";
  CHECK(load_or_die(path, options).variant_name() == "second");

  eb_load_options c_options;
  eb_load_options_init(&c_options);
  c_options.state_dir = options.state_dir.c_str();
  for (const std::uint32_t no_tuning : {0u, 1u}) {
    c_options.no_tuning = no_tuning;
    eb_runner* handle = nullptr;
    REQUIRE(eb_runner_load(path.c_str(), &c_options, &handle) == EB_OK);
    CHECK(std::string(eb_runner_variant(handle)) == (no_tuning == 0 ? "third" : "first"));
    CHECK(std::string(eb_runner_variant_order(handle)) == (no_tuning == 0 ? tuned : off).variant_order());
    eb_runner_free(handle);
  }
  // A caller compiled before there was a field for it.
  c_options.no_tuning = 1;
  c_options.struct_size = offsetof(eb_load_options, no_tuning);
  eb_runner* handle = nullptr;
  REQUIRE(eb_runner_load(path.c_str(), &c_options, &handle) == EB_OK);
  CHECK(std::string(eb_runner_variant(handle)) == "third");
  eb_runner_free(handle);
}

TEST_CASE("a tuned variant that can't run any more is passed over like any other") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  bundle.add_variant("second")["requires"]["cpu_features"] = {"antigravity"};
  const std::string path = bundle.write();
  const TemporaryFolder state;
  LoadOptions options;
  options.state_dir = state.path().string();
  options.log = [](eb_severity, std::string_view) {};
  const Runner before = load_or_die(path, options);
  REQUIRE(runner::write_tuning(options.state_dir, tuning_of(before, {"second", "first"})).ok());
  const Runner tuned = load_or_die(path, options);
  CHECK(tuned.variant_name() == "first");
  REQUIRE(tuned.passed_over().size() == 1);
  CHECK(tuned.passed_over()[0].variant == "second");
}

TEST_CASE("what is measured with an engine of another version is dropped once that shows, and said") {
  RunnerBundle bundle("reference", kAffine);
  const std::string path = three_alike(bundle);
  const TemporaryFolder state;
  LoadOptions options;
  options.state_dir = state.path().string();
  std::string said;
  options.log = [&](eb_severity severity, std::string_view line) {
    if (severity == EB_LOG_INFO) said.append(line).append("\n");
  };
  runner::Tuning tuning = tuning_of(load_or_die(path, options), {"second", "first", "third"});
  for (runner::TunedVariant& variant : tuning.variants) variant.engine_version = "0.0";
  REQUIRE(runner::write_tuning(options.state_dir, tuning).ok());
  const Runner loaded = load_or_die(path, options);
  CHECK(loaded.variant_name() == "first");
  CHECK(loaded.variant_order().find("the target's: it was tuned with another engine than ") == 0);
  CHECK(said.find(loaded.variant_order()) != std::string::npos);
}

TEST_CASE("a tuning that can't be used is a reason, never an error") {
  RunnerBundle bundle("reference", kAffine);
  const std::string path = three_alike(bundle);
  const TemporaryFolder state;
  LoadOptions options;
  options.state_dir = state.path().string();
  const std::string file = options.state_dir + "/tuning-default.json";
  std::string said;
  options.log = [&](eb_severity severity, std::string_view line) {
    if (severity == EB_LOG_INFO) said = line;
  };
  const Runner before = load_or_die(path, options);
  const std::string good = runner::tuning_text(tuning_of(before, {"third", "second", "first"}));
  runner::Tuning foreign = tuning_of(before, {"third", "second", "first"});
  foreign.key.cpu_model = "an abacus";
  for (const std::string& text : {std::string(), good.substr(0, good.size() / 2), "x" + good, std::string(1 << 20, ' '),
                                  runner::tuning_text(foreign)}) {
    write_file(file, text);
    const Runner loaded = load_or_die(path, options);
    CHECK(loaded.variant_name() == "first");
    CHECK(loaded.variant_order().find("the target's: " + file + " is ignored: it ") == 0);
    CHECK(said == "order of the variants: " + loaded.variant_order());
  }
  write_file(file, good);
  CHECK(load_or_die(path, options).variant_name() == "third");
}

}  // namespace
