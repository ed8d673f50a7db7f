#include "tensorrt/recorded_run.hpp"

namespace edgebuild::tensorrt {

void RecordedRun::add(const void* address, std::span<const std::int64_t> shape) {
  next_.push_back(reinterpret_cast<std::uintptr_t>(address));
  next_.push_back(shape.size());
  for (const std::int64_t size : shape) next_.push_back(static_cast<std::uint64_t>(size));
}

Status RecordedRun::enqueue(Execution& execution, void* stream) {
  if (given_up_) return execution.enqueue(stream);
  if (next_ != last_) {
    forget();
    last_.swap(next_);
    return execution.enqueue(stream);
  }
  if (graph_ == nullptr && !record(execution, stream).ok()) {
    given_up_ = true;
    return execution.enqueue(stream);
  }
  return cuda_->launch(graph_, stream);
}

Status RecordedRun::record(Execution& execution, void* stream) {
  EDGEBUILD_RETURN_IF_ERROR(cuda_->begin_recording(stream));
  const Status queued = execution.enqueue(stream);
  const Status ended = cuda_->end_recording(stream, &graph_);
  if (!queued.ok()) forget();
  return queued.ok() ? ended : queued;
}

void RecordedRun::forget() noexcept {
  if (graph_ != nullptr) cuda_->destroy_graph(graph_);
  graph_ = nullptr;
}

}  // namespace edgebuild::tensorrt
