// What the backend needs from TensorRT, in our own words: the seam between code that needs its headers (nvinfer/) and
// code that does not. Linked to one or the other implementation: TensorRT, or the tests' double.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_ENGINE_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_ENGINE_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/backend_plugin.h"
#include "edgebuild/status.hpp"
#include "tensorrt/kept_file.hpp"
#include "tensorrt/plan_store.hpp"
#include "tensorrt/recipe.hpp"

namespace edgebuild::tensorrt {

/// An input or output of a plan.
struct TensorInfo {
  std::string name;
  bool is_input = false;
  bool on_host = false;  ///< Its bytes are read, or written, on the host: a shape.
  std::uint32_t dtype = EB_DTYPE_UNDEFINED;
  std::vector<std::int64_t> shape;  ///< -1 where a size is dynamic.
};

/// Memory for an output whose size shows only while it runs.
class OutputMemory {
 public:
  virtual ~OutputMemory() = default;
  /// At least `size` bytes on the device; NULL if there are none. Called while it runs, maybe on another thread.
  virtual void* reserve(std::size_t size) noexcept = 0;
};

/// One caller's execution of a plan.
class Execution {
 public:
  virtual ~Execution() = default;
  /// The next run's input: its shape and address. kInvalidArgument if it lies outside of the plan's profile.
  virtual Status bind_input(const TensorInfo& tensor, std::span<const std::int64_t> shape, const void* address) = 0;
  /// The shape that an output will have, now that all inputs are bound; -1 where only the run will tell.
  virtual Status output_shape(const TensorInfo& tensor, std::vector<std::int64_t>* out) = 0;
  virtual Status bind_output(const TensorInfo& tensor, void* address) = 0;
  /// Instead of an address: memory is asked for while it runs; `memory` stays valid until the run has ended.
  virtual Status bind_output(const TensorInfo& tensor, OutputMemory& memory) = 0;
  /// Queues one run. `stream` is a cudaStream_t.
  virtual Status enqueue(void* stream) = 0;
  /// Of an output that was bound to OutputMemory, after the run: its shape.
  virtual std::vector<std::int64_t> produced_shape(const TensorInfo& tensor) = 0;
};

/// A plan, loaded. Immutable; any number of executions.
class Plan {
 public:
  virtual ~Plan() = default;
  [[nodiscard]] virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual Result<std::unique_ptr<Execution>> make_execution() = 0;
};

/// What a build gives.
struct BuiltPlan {
  Bytes plan;
  Bytes timing_cache;  ///< Empty: there is none to keep.
};

class Engine {
 public:
  virtual ~Engine() = default;
  /// The library's own version, e.g. "10.3.0.26".
  [[nodiscard]] virtual const std::string& version() const = 0;
  /// Builds a plan on the device that is in use.
  ///
  /// @param onnx          The model with all its weights.
  /// @param timing_cache  Of earlier builds on such a machine; empty: none.
  /// @return kUnsupported (an operator, naming it; a DLA core that is not there), kUsage (the recipe does not fit the
  ///         model), kResourceExhausted, kInternal.
  virtual Result<BuiltPlan> build(std::span<const std::byte> onnx, const Recipe& recipe,
                                  std::span<const std::byte> timing_cache, const Progress& progress) = 0;
  /// Loads a plan onto the device that is in use. It must have been checked: this runs what it holds.
  virtual Result<std::unique_ptr<Plan>> load(std::span<const std::byte> plan, const Recipe& recipe) = 0;
};

/// Opens TensorRT's libraries. `host` stays valid and hears what TensorRT says.
///
/// @return kNotFound (no library, saying what brings it), kIncompatible (another version, naming both).
Result<std::unique_ptr<Engine>> open_engine(const eb_host_api& host);

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_ENGINE_HPP_
