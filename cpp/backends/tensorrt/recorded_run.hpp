// Runs of the same shapes and addresses as one CUDA graph: queueing each kernel anew costs the host time.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_RECORDED_RUN_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_RECORDED_RUN_HPP_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "edgebuild/status.hpp"
#include "tensorrt/cuda.hpp"
#include "tensorrt/engine.hpp"

namespace edgebuild::tensorrt {

/// Of one execution. The first run of some shapes and addresses is queued as it is, since TensorRT sets itself up for
/// new shapes then; the second is recorded; from then on the recording is queued. What can't be recorded is queued as
/// it is for good.
class RecordedRun {
 public:
  explicit RecordedRun(std::shared_ptr<const Cuda> cuda) noexcept : cuda_(std::move(cuda)) {}
  RecordedRun(const RecordedRun&) = delete;
  RecordedRun& operator=(const RecordedRun&) = delete;
  ~RecordedRun() { forget(); }

  /// Begins to describe the next run.
  void begin() noexcept { next_.clear(); }
  /// What it reads or writes.
  void add(const void* address, std::span<const std::int64_t> shape);
  /// Queues it on `stream`; whatever was queued before has ended.
  [[nodiscard]] Status enqueue(Execution& execution, void* stream);

 private:
  Status record(Execution& execution, void* stream);
  void forget() noexcept;

  std::shared_ptr<const Cuda> cuda_;
  std::vector<std::uint64_t> next_;  ///< Shapes and addresses of the run that is described.
  std::vector<std::uint64_t> last_;  ///< Of the last one, and of the recording.
  Cuda::Graph graph_ = nullptr;
  bool given_up_ = false;
};

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_RECORDED_RUN_HPP_
