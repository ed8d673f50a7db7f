#include "runner/cancellation.hpp"

#include <chrono>

#include "runner/host_api.hpp"

namespace edgebuild {
namespace {

// A backend ignores a cancel that comes before its engine has begun, so it is asked again until the run has ended.
constexpr std::chrono::milliseconds kAskAgain{1};

}  // namespace

Cancellation::Cancellation() : state_(std::make_unique<State>()) {}
Cancellation::~Cancellation() = default;

void Cancellation::cancel() {
  std::unique_lock lock(state_->mutex);
  state_->cancelled = true;
  while (state_->runs != nullptr) {
    for (CancellableRun* run = state_->runs; run != nullptr; run = run->next_) {
      static_cast<void>(runner::take_status(run->api_.cancel(run->context_)));  // One that fails is asked again too.
    }
    state_->ended.wait_for(lock, kAskAgain);
  }
}

bool Cancellation::cancelled() const {
  const std::lock_guard lock(state_->mutex);
  return state_->cancelled;
}

void Cancellation::reset() {
  const std::lock_guard lock(state_->mutex);
  state_->cancelled = false;
}

CancellableRun::CancellableRun(Cancellation* cancellation, const eb_backend_api& api, eb_context* context)
    : api_(api), context_(context) {
  if (cancellation == nullptr) return;
  Cancellation::State& state = *cancellation->state_;
  const std::lock_guard lock(state.mutex);
  refused_ = state.cancelled;
  if (refused_ || (api.features & EB_FEATURE_CANCEL) == 0 || api.cancel == nullptr) return;
  state_ = &state;
  next_ = state.runs;
  if (next_ != nullptr) next_->previous_ = this;
  state.runs = this;
}

CancellableRun::~CancellableRun() {
  if (state_ == nullptr) return;
  const std::lock_guard lock(state_->mutex);
  (previous_ != nullptr ? previous_->next_ : state_->runs) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  state_->ended.notify_all();
}

}  // namespace edgebuild
