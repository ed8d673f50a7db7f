// Holding back what a library writes to stderr while it is loaded.

#ifndef EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_
#define EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_

#include <string_view>

namespace edgerun {

/// As long as one lives, stderr goes to memory. Then its lines, but for noise, are written where they would have gone;
/// also if the process ends before, by exit() or by a signal that a program can see: what an engine says as it dies is
/// what its user needs. The signal then takes its course, so that the exit status tells it.
///
/// For the time of loading an engine, one at a time, when this process has no other thread of its own. Messages of
/// signal handlers (signals.hpp) are not held back.
class HeldStderr {
 public:
  HeldStderr() noexcept;
  HeldStderr(const HeldStderr&) = delete;
  HeldStderr& operator=(const HeldStderr&) = delete;
  ~HeldStderr();

 private:
  bool holds_ = false;
};

/// Gives stderr back and writes what was held so far; nothing if nothing is held. Async-signal-safe.
void release_stderr() noexcept;

/// Whether a line is what ONNX Runtime writes when it comes as several libraries: each registers the operators' schemas
/// that another one has registered before. Nothing follows from that.
[[nodiscard]] bool is_noise(std::string_view line) noexcept;

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_
