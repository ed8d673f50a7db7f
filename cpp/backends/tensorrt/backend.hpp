// The backend's objects behind the plugin ABI. Nothing here needs TensorRT's headers: see engine.hpp.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_BACKEND_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_BACKEND_HPP_

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/plugin.hpp"
#include "tensorrt/cuda.hpp"
#include "tensorrt/engine.hpp"
#include "tensorrt/plan_store.hpp"
#include "tensorrt/recipe.hpp"
#include "tensorrt/recorded_run.hpp"

namespace edgebuild::tensorrt {

/// A Status as the host's own.
eb_status* give(const eb_host_api& host, const Status& status) noexcept;

class Backend {
 public:
  static Status create(const eb_host_api& host, const eb_backend_config& config, std::unique_ptr<Backend>* out);

  [[nodiscard]] const eb_host_api& host() const noexcept { return host_; }
  [[nodiscard]] const std::shared_ptr<const Cuda>& cuda() const noexcept { return cuda_; }
  [[nodiscard]] Engine& engine() const noexcept { return *engine_; }
  [[nodiscard]] Result<MachineKey> machine(std::uint32_t device) const;

 private:
  explicit Backend(const eb_host_api& host) noexcept : host_(host) {}
  const eb_host_api& host_;
  std::shared_ptr<const Cuda> cuda_;
  std::unique_ptr<Engine> engine_;
};

/// An input or output in signature order; no tensor: the graph has no such input.
struct Port {
  std::string name;
  std::optional<TensorInfo> tensor;
};

class Model {
 public:
  static Status load(Backend& backend, const eb_model_config& config, std::unique_ptr<Model>* out);

  [[nodiscard]] Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] Plan& plan() const noexcept { return *plan_; }
  [[nodiscard]] const Recipe& recipe() const noexcept { return recipe_; }
  [[nodiscard]] const std::vector<Port>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<Port>& outputs() const noexcept { return outputs_; }
  Status settle(bool good);

 private:
  explicit Model(Backend& backend) noexcept : backend_(backend) {}
  Status load_ready();
  Status prepare(const eb_file& onnx, bool anew, const Progress& progress);
  Status build(const eb_file& onnx, const Progress& progress);
  /// Deserialises a plan that has been checked.
  Status open_plan(const Bytes& plan);
  Status find_ports(const eb_model_config& config);

  Backend& backend_;
  Recipe recipe_;
  PlanKey key_;
  std::optional<PlanStore> store_;
  std::optional<BuilderLock> lock_;  ///< From a build until its verdict.
  bool unjudged_ = false;
  std::unique_ptr<Plan> plan_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
};

class Context {
 public:
  static Status create(Model& model, std::unique_ptr<Context>* out);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context();

  Status run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
             const eb_run_options* options);
  [[nodiscard]] Model& model() const noexcept { return model_; }

 private:
  /// Device memory for an output whose size only the run tells.
  class Grown final : public OutputMemory {
   public:
    explicit Grown(DeviceMemory& memory) noexcept : memory_(memory) {}
    void* reserve(std::size_t size) noexcept override { return memory_.reserve(size).ok() ? memory_.get() : nullptr; }

   private:
    DeviceMemory& memory_;
  };
  /// What one output of the current run is.
  struct Result {
    std::vector<std::int64_t> shape;
    std::uint64_t bytes = 0;
    bool known = false;       ///< Its shape was known before the run.
    void* address = nullptr;  ///< Where the engine writes it.
  };

  explicit Context(Model& model) noexcept : model_(model) {}
  Status bind_inputs(const eb_value* inputs, void* stream);
  Status bind_outputs(eb_value* outputs);
  Status enqueue(void* stream);
  Status fetch(eb_value* outputs, void* stream);
  /// EB_BUFFER_TOO_SMALL with the sizes that are needed; OK if every bound output is large enough.
  Status check_capacity(eb_value* outputs, bool all) const;

  Model& model_;
  std::unique_ptr<Execution> execution_;
  std::optional<RecordedRun> recorded_;  ///< If the recipe wants it and nothing of the plan lies on the host.
  void* stream_ = nullptr;
  std::vector<std::unique_ptr<DeviceMemory>> input_memory_;
  std::vector<std::unique_ptr<DeviceMemory>> output_memory_;
  std::vector<std::unique_ptr<Grown>> grown_;
  std::vector<std::vector<std::byte>> host_inputs_;  ///< Of those that the engine reads, or writes, on the host.
  std::vector<std::vector<std::byte>> host_outputs_;
  std::vector<Result> results_;
};

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_BACKEND_HPP_
