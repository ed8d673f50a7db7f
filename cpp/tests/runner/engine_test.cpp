// Engines that a plugin is linked with: where they come from, and that two versions never meet in one process.

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <string>

#include "edgebuild/edgebuild.h"
#include "reference_model.hpp"
#include "runner_bundle.hpp"

namespace {

using edgebuild::Code;
using edgebuild::LoadOptions;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::testing::describe_affine;
using edgebuild::testing::kAffine;
using edgebuild::testing::RunnerBundle;

const std::string kPlugin = EDGEBUILD_TEST_REFERENCE_PLUGIN;

/// A variant whose plugin is linked with an engine. The plugin's own file stands for the engine's library.
void link_with(RunnerBundle& bundle, edgebuild::testing::Json& variant, const std::string& engine,
               const std::string& version) {
  variant["plugin"] = bundle.library(kPlugin);
  variant["engine"] = {
      {"name", engine}, {"version", version}, {"linkage", "bundled"}, {"library", bundle.library(kPlugin)}};
}

bool says(const Status& status, const std::string& part) { return status.message().find(part) != std::string::npos; }

TEST_CASE("an engine folder of another version is refused, naming both, and the next variant serves") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  link_with(bundle, bundle.variant(), "engine-a", "2.0.0");
  LoadOptions options;
  options.engine_folders["engine-a"] = {"/nowhere", "1.9.0+cpu"};
  const Status status = Runner::load(bundle.write(), options).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(says(status, "engine-a 2.0.0"));
  CHECK(says(status, "1.9.0+cpu"));
  CHECK(says(status, "/nowhere"));
  edgebuild::testing::Json& next = bundle.add_variant("builtin");
  next["plugin"] = nullptr;
  next["engine"] = nullptr;
  const Runner runner = edgebuild::testing::load_or_die(bundle.write(), options);
  CHECK(runner.variant_name() == "builtin");
  REQUIRE(runner.passed_over().size() == 1);
  CHECK(runner.passed_over()[0].reason.find("1.9.0+cpu") != std::string::npos);
}

TEST_CASE("an engine folder of the variant's version is used, whatever its build is called") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  link_with(bundle, bundle.variant(), "engine-b", "2.0.0");
  LoadOptions options;
  options.engine_folders["engine-b"] = {"/nowhere", "2.0.0+cpu"};
  const Status status = Runner::load(bundle.write(), options).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(says(status, "/nowhere/" + std::filesystem::path(kPlugin).filename().string() + " can't be loaded"));
  options.engine_folders["engine-b"].path = std::filesystem::path(kPlugin).parent_path().string();
  CHECK(edgebuild::testing::load_or_die(bundle.write(), options).backend_name() == "reference");
}

TEST_CASE("an engine folder is given in C as in C++; a caller of an older header gives none") {
  RunnerBundle bundle("reference", kAffine);
  describe_affine(bundle);
  link_with(bundle, bundle.variant(), "engine-d", "2.0.0");
  const std::string path = bundle.write();
  const eb_engine_folder folders[] = {{"another", "/nowhere", "1.0"}, {"engine-d", "/nowhere", "1.9.0+cpu"}};
  eb_load_options options;
  eb_load_options_init(&options);
  CHECK(options.engine_folder_count == 0);
  options.engine_folders = folders;
  options.engine_folder_count = 2;
  eb_runner* runner = nullptr;
  CHECK(eb_runner_load(path.c_str(), &options, &runner) == EB_INCOMPATIBLE);
  const std::string said = eb_last_error();
  CHECK(said.find("engine-d 2.0.0") != std::string::npos);
  CHECK(said.find("1.9.0+cpu (/nowhere)") != std::string::npos);
  options.struct_size = offsetof(eb_load_options, engine_folders);
  REQUIRE_MESSAGE(eb_runner_load(path.c_str(), &options, &runner) == EB_OK, eb_last_error());
  eb_runner_free(runner);
}

TEST_CASE("an engine of another version than one that the process runs is refused, naming both") {
  RunnerBundle first("reference", kAffine);
  describe_affine(first);
  link_with(first, first.variant(), "engine-c", "2.0.0");
  RunnerBundle other("reference", kAffine);
  describe_affine(other);
  link_with(other, other.variant(), "engine-c", "2.1.0");
  CHECK(edgebuild::testing::load_or_die(first.write()).backend_name() == "reference");
  const Status status = Runner::load(other.write()).status();
  CHECK(status.code() == Code::kIncompatible);
  CHECK(says(status, "engine-c 2.1.0"));
  CHECK(says(status, "this process has 2.0.0"));
  // The same version from a bundle elsewhere shares it.
  RunnerBundle again("reference", kAffine);
  describe_affine(again);
  link_with(again, again.variant(), "engine-c", "2.0.0");
  CHECK(edgebuild::testing::load_or_die(again.write()).backend_name() == "reference");
}

}  // namespace
