// The host's side of the plugin ABI: what backends are lent, and how their statuses become ours.

#ifndef EDGEBUILD_SRC_RUNNER_HOST_API_HPP_
#define EDGEBUILD_SRC_RUNNER_HOST_API_HPP_

#include <memory>

#include "edgebuild/backend_plugin.h"
#include "edgebuild/runner.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::runner {

/// The one table, valid until the process ends.
[[nodiscard]] const eb_host_api& host_api() noexcept;

/// Turns a plugin's status into ours and frees it. NULL is success.
[[nodiscard]] Status take_status(eb_status* status);

/// Sends what the engine says on this thread to `sink` while this object lives. What engines say on threads of their
/// own goes to the sink that was last in use, if it still exists.
class LogScope {
 public:
  explicit LogScope(const std::shared_ptr<const LogFunction>& sink) noexcept;
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;
  ~LogScope();

 private:
  const LogFunction* previous_;
};

/// Makes `sink` the one that hears engines' own threads.
void set_background_log(const std::shared_ptr<const LogFunction>& sink);

/// Says a line to the sink of this thread.
void log_line(eb_severity severity, std::string_view message) noexcept;

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_HOST_API_HPP_
