// Bundles made by the tests: a signature, one or more variants, and their files, written as a directory.

#ifndef EDGEBUILD_TESTS_RUNNER_RUNNER_BUNDLE_HPP_
#define EDGEBUILD_TESTS_RUNNER_RUNNER_BUNDLE_HPP_

#include <string>
#include <vector>

#include "edgebuild/runner.hpp"
#include "support.hpp"

namespace edgebuild::testing {

/// A tensor's type for the manifest.
[[nodiscard]] Json tensor_type(const std::string& dtype, const Json& shape);

class RunnerBundle {
 public:
  /// @param backend  Of the first variant, whose model file is `model`.
  RunnerBundle(const std::string& backend, const std::string& model);

  RunnerBundle& input(const std::string& name, const Json& type);
  RunnerBundle& output(const std::string& name, const Json& type);
  RunnerBundle& symbol(const std::string& name, std::int64_t min, const Json& max);
  /// The first variant's JSON, for changes.
  [[nodiscard]] Json& variant() { return variants_[0]; }
  /// Adds a copy of the first variant under another name, to be changed.
  [[nodiscard]] Json& add_variant(const std::string& name);
  /// A file in lib/ (engine or plugin) with the content of an existing one; returns its path in the bundle.
  std::string library(const std::string& source);
  RunnerBundle& data_file(const std::string& name, const std::string& bytes);
  [[nodiscard]] Json& manifest() { return manifest_; }

  /// Writes the bundle into a new folder and returns its path, valid while this object lives.
  [[nodiscard]] std::string write();

 private:
  TemporaryFolder folder_;
  int written_ = 0;
  Files files_;
  Json variants_ = Json::array();
  Json manifest_;
};

/// Loads, and says why if it can't.
[[nodiscard]] Runner load_or_die(const std::string& path, const LoadOptions& options = {});

/// A float32 view of `values`.
[[nodiscard]] Value view(const std::vector<float>& values, const std::vector<std::int64_t>& shape);
[[nodiscard]] std::vector<float> floats(const Value& value);

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_RUNNER_RUNNER_BUNDLE_HPP_
