// The runs that a Cancellation can stop.

#ifndef EDGEBUILD_SRC_RUNNER_CANCELLATION_HPP_
#define EDGEBUILD_SRC_RUNNER_CANCELLATION_HPP_

#include <condition_variable>
#include <mutex>

#include "edgebuild/runner.hpp"

namespace edgebuild {

/// A run in progress, known to its Cancellation from construction to destruction. Lies on the run's stack: nothing is
/// allocated for it.
class CancellableRun {
 public:
  /// @param cancellation  NULL: nothing can stop this run.
  /// @param context       Of the backend `api`; outlives this object.
  CancellableRun(Cancellation* cancellation, const eb_backend_api& api, eb_context* context);
  CancellableRun(const CancellableRun&) = delete;
  CancellableRun& operator=(const CancellableRun&) = delete;
  ~CancellableRun();

  /// Whether it was cancelled before it began.
  [[nodiscard]] bool refused() const noexcept { return refused_; }

 private:
  friend class Cancellation;
  Cancellation::State* state_ = nullptr;  ///< NULL: not listed.
  const eb_backend_api& api_;
  eb_context* context_;
  bool refused_ = false;
  CancellableRun* previous_ = nullptr;
  CancellableRun* next_ = nullptr;
};

struct Cancellation::State {
  std::mutex mutex;
  std::condition_variable ended;
  bool cancelled = false;
  CancellableRun* runs = nullptr;  ///< Those in progress whose engine can be stopped.
};

}  // namespace edgebuild

#endif  // EDGEBUILD_SRC_RUNNER_CANCELLATION_HPP_
