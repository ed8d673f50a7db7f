// The way to a Runner's values without the class Value around them, for the C API and the bindings.

#ifndef EDGEBUILD_SRC_RUNNER_ACCESS_HPP_
#define EDGEBUILD_SRC_RUNNER_ACCESS_HPP_

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "edgebuild/runner.hpp"
#include "runner/tuning.hpp"

namespace edgebuild {

namespace bundle {
class Bundle;
}

struct RunnerAccess {
  /// Runner::load that shows the opened bundle before anything of it is loaded, and ends if `opened` does not agree.
  static Result<Runner> load(const std::string& path, const LoadOptions& options,
                             const std::function<Status(const bundle::Bundle&)>& opened);
  /// Runner::run on plain values; the same contract.
  static Status run(Runner& runner, std::span<const eb_value> inputs, std::span<eb_value> outputs,
                    const RunOptions& options);
  /// Runner::preprocess on plain values; the same contract.
  static Result<Value> preprocess(const Runner& runner, std::string_view name, const eb_value& images);
  static bool has_preprocessing(const Runner& runner, std::string_view name) noexcept;
  /// In which order variants were tried.
  static const runner::VariantOrder& order(const Runner& runner) noexcept;
  /// Bytes that were hashed so far, and the nanoseconds that it took.
  static std::uint64_t hashed_bytes(const Runner& runner) noexcept;
  static std::uint64_t hashing_ns(const Runner& runner) noexcept;

 private:
  static Result<Runner> open_and_load(const std::string& path, const LoadOptions& options,
                                      const std::function<Status(const bundle::Bundle&)>& opened);
  static Result<Value> find_and_preprocess(const Runner& runner, std::string_view name, const eb_value& images);
};

}  // namespace edgebuild

#endif  // EDGEBUILD_SRC_RUNNER_ACCESS_HPP_
