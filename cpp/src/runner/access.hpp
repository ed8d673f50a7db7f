// The way to a Runner's values without the class Value around them, for the C API and the bindings.

#ifndef EDGEBUILD_SRC_RUNNER_ACCESS_HPP_
#define EDGEBUILD_SRC_RUNNER_ACCESS_HPP_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "edgebuild/runner.hpp"
#include "runner/model.hpp"
#include "runner/tuning.hpp"

namespace edgebuild {

namespace bundle {
class Bundle;
}

struct RunnerAccess {
  /// Runner::load that shows the opened bundle before anything of it is loaded, and ends if `opened` does not agree.
  static Result<Runner> load(const std::string& path, const LoadOptions& options,
                             const std::function<Status(const bundle::Bundle&)>& opened);
  /// Loads one variant and makes first what its backend needs on this machine.
  ///
  /// @param variant  A name of the manifest's; `options` say the rest.
  /// @return Nothing if the backend makes nothing; else a Runner whose results are to be judged: see settle(). What
  ///         load() returns, and kResourceExhausted (memory, disk), kIo.
  static Result<std::optional<Runner>> prepare(const bundle::Bundle& bundle, const std::string& variant,
                                               const LoadOptions& options, const runner::Preparing& preparing);
  /// Keeps what prepare() made, or throws it away.
  static Status settle(Runner& runner, bool good);
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
