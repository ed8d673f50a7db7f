// Holding back what a library writes to stderr while it is loaded.

#ifndef EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_
#define EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_

#include <string_view>

namespace edgerun {

/// As long as one lives, stderr goes to memory. Then its lines, but for noise, are written where they would have gone.
///
/// For the time of loading an engine, when this process has no other thread of its own. Messages of signal handlers
/// (signals.hpp) are not held back.
class HeldStderr {
 public:
  HeldStderr() noexcept;
  HeldStderr(const HeldStderr&) = delete;
  HeldStderr& operator=(const HeldStderr&) = delete;
  ~HeldStderr();

 private:
  int memory_ = -1;
  int stderr_ = -1;
};

/// Whether a line is what ONNX Runtime writes when it comes as several libraries: each registers the operators' schemas
/// that another one has registered before. Nothing follows from that.
[[nodiscard]] bool is_noise(std::string_view line) noexcept;

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_HELD_STDERR_HPP_
