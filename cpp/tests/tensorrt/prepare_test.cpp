// `edgerun prepare`: what is built, judged, kept and given up.

#include "prepare.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>

#include "double.hpp"

namespace {

using namespace edgerun;             // NOLINT
using namespace edgebuild::testing;  // NOLINT
using edgebuild::Code;
using edgebuild::Runner;

struct Outcome {
  std::vector<Prepared> prepared;
  edgebuild::Status none;
};

Outcome prepare(const std::string& path, const Double& control, const PrepareRequest& request = {},
                const std::string& variant = "") {
  CommonOptions options;
  options.bundle = path;
  options.state_dir = control.state();
  options.variant = variant;
  auto bundle = edgebuild::bundle::Bundle::open(path);
  REQUIRE(bundle.ok());
  Outcome outcome;
  const edgebuild::Status status = prepare_variants(bundle.value(), options, request, &outcome.prepared);
  if (!status.ok()) FAIL(status.message());
  outcome.none = why_none_ready(outcome.prepared);
  return outcome;
}

std::string serving(const std::string& path, const Double& control) {
  edgebuild::LoadOptions options;
  options.state_dir = control.state();
  options.log = [](eb_severity, std::string_view) {};
  return load_or_die(path, options).variant_name();
}

TEST_CASE("a plan is built once, judged by the goldens and serves; the next preparation has nothing to do") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  const Outcome first = prepare(path, control);
  REQUIRE(first.prepared.size() == 1);
  CHECK(first.prepared[0].result == Prepared::Result::kReady);
  CHECK(first.prepared[0].made);
  CHECK(serving(path, control) == "trt");
  const Outcome second = prepare(path, control);
  CHECK(!second.prepared[0].made);
  CHECK(control.builds() == 1);
  prepare(path, control, {.all = false, .anew = true});
  CHECK(control.builds() == 2);
  CHECK(serving(path, control) == "trt");
}

TEST_CASE("a plan that is wrong is built once more; one that stays wrong is given up and the next variant serves") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  control.set("wrong", "1");
  CHECK(prepare(path, control).prepared[0].result == Prepared::Result::kReady);
  CHECK(control.builds() == 2);
  CHECK(serving(path, control) == "trt");
  control.set("wrong", "9");
  const Outcome given_up = prepare(path, control, {.all = false, .anew = true});
  CHECK(control.builds() == 4);
  REQUIRE(given_up.prepared.size() == 2);
  CHECK(given_up.prepared[0].failure.code() == Code::kGateFailed);
  CHECK(given_up.prepared[1].result == Prepared::Result::kNothing);
  CHECK(given_up.none.code() == Code::kGateFailed);
  CHECK(given_up.none.message().find("variant trt, output 'y', golden 0") != std::string::npos);
  CHECK(serving(path, control) == "cpu");
}

TEST_CASE("a ready plan that no longer loads, or is damaged, is built anew") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  prepare(path, control);
  for (const auto& entry : std::filesystem::directory_iterator(control.state() + "/plans")) {
    if (entry.path().extension() == ".plan") write_file(entry.path(), read_file(entry.path()).substr(0, 60));
  }
  CHECK(serving(path, control) == "cpu");
  CHECK(prepare(path, control).prepared[0].made);
  CHECK(control.builds() == 2);
  CHECK(serving(path, control) == "trt");
}

TEST_CASE("the timing cache of one build is given to the next, but not to another TensorRT's") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  prepare(path, control);
  CHECK(control.get("timing").empty());
  prepare(path, control, {.all = false, .anew = true});
  CHECK(control.get("timing") == "measured by 10.3.0.26");
  control.set("version", "10.5.0.18");
  prepare(path, control);
  CHECK(control.get("timing").empty());
}

TEST_CASE("nothing is built where memory is short, and what TensorRT refuses is said") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  control.set("free_mib", "63");
  const Outcome short_of = prepare(path, control);
  CHECK(short_of.none.code() == Code::kResourceExhausted);
  CHECK(short_of.none.message().find("in the GPU's memory 65 MiB are needed, 63 MiB are free") != std::string::npos);
  CHECK(control.builds() == 0);
  control.unset("free_mib");
  control.set("refuse", "TensorRT can't read the model, node 3: no importer for Foo");
  const Outcome refused = prepare(path, control);
  CHECK(refused.none.code() == Code::kUnsupported);
  CHECK(refused.none.message().find("no importer for Foo") != std::string::npos);
  control.set("absent", "1");
  CHECK(prepare(path, control).none.code() == Code::kIncompatible);
  CHECK(serving(path, control) == "cpu");
}

TEST_CASE("of two that prepare at once one builds, and both end with the plan") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  const std::string path = double_bundle(bundle);
  control.set("slow_ms", "150");
  std::vector<Prepared::Result> results(3);
  std::vector<std::thread> threads;
  for (Prepared::Result& result : results) {
    threads.emplace_back([&] { result = prepare(path, control).prepared.at(0).result; });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(results == std::vector<Prepared::Result>(3, Prepared::Result::kReady));
  CHECK(control.builds() == 1);
}

TEST_CASE("--all prepares every variant, and a bundle without such variants has nothing to make") {
  const Double control;
  RunnerBundle bundle("tensorrt", "scale 2");
  static_cast<void>(double_bundle(bundle));
  bundle.add_variant("small")["options"]["workspace_mib"] = "32";
  const std::string path = bundle.write();
  const Outcome all = prepare(path, control, {.all = true, .anew = false});
  REQUIRE(all.prepared.size() == 3);
  CHECK(all.prepared[2].result == Prepared::Result::kReady);
  CHECK(control.builds() == 2);
  const Outcome nothing = prepare(path, control, {}, "cpu");
  CHECK(nothing.none.ok());
  CHECK(nothing.prepared[0].result == Prepared::Result::kNothing);
}

}  // namespace
