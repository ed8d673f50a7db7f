// A plan, deserialised, and its executions.

#include <map>

#include "tensorrt/nvinfer/nvinfer.hpp"

namespace edgebuild::tensorrt {
namespace {

/// Hands TensorRT the memory for an output whose size it finds out while it runs.
class Allocator final : public nvinfer1::IOutputAllocator {
 public:
  explicit Allocator(OutputMemory& memory) noexcept : memory_(&memory) {}
  void use(OutputMemory& memory) noexcept { memory_ = &memory; }
  [[nodiscard]] const nvinfer1::Dims& dims() const noexcept { return dims_; }

  void* reallocateOutputAsync(char const* /*name*/, void* /*current*/, std::uint64_t size, std::uint64_t /*alignment*/,
                              cudaStream_t /*stream*/) override {
    return memory_->reserve(static_cast<std::size_t>(size));  // cudaMalloc aligns to 256 bytes, more than is asked for.
  }
  void notifyShape(char const* /*name*/, nvinfer1::Dims const& dims) noexcept override { dims_ = dims; }

 private:
  OutputMemory* memory_;
  nvinfer1::Dims dims_{};
};

class NvExecution final : public Execution {
 public:
  NvExecution(nvinfer1::IExecutionContext* context, Logger& logger) noexcept : context_(context), logger_(logger) {}

  Status bind_input(const TensorInfo& tensor, std::span<const std::int64_t> shape, const void* address) override {
    logger_.forget();
    nvinfer1::Dims dims{};
    if (!to_dims(shape, &dims) || !context_->setInputShape(tensor.name.c_str(), dims)) {
      return logger_.failure("its shape is outside of the plan's profile", Code::kInvalidArgument);
    }
    if (context_->setInputTensorAddress(tensor.name.c_str(), address)) return {};
    return logger_.failure("its address is refused", Code::kInternal);
  }

  Status output_shape(const TensorInfo& tensor, std::vector<std::int64_t>* out) override {
    *out = from_dims(context_->getTensorShape(tensor.name.c_str()));
    return {};
  }

  Status bind_output(const TensorInfo& tensor, void* address) override {
    static_cast<void>(context_->setOutputAllocator(tensor.name.c_str(), nullptr));
    if (context_->setTensorAddress(tensor.name.c_str(), address)) return {};
    return logger_.failure("output '" + tensor.name + "': its address is refused", Code::kInternal);
  }

  Status bind_output(const TensorInfo& tensor, OutputMemory& memory) override {
    std::unique_ptr<Allocator>& allocator = allocators_[tensor.name];
    if (!allocator) allocator = std::make_unique<Allocator>(memory);
    allocator->use(memory);
    if (context_->setOutputAllocator(tensor.name.c_str(), allocator.get())) return {};
    return logger_.failure("output '" + tensor.name + "': TensorRT takes no allocator", Code::kInternal);
  }

  Status enqueue(void* stream) override {
    logger_.forget();
    if (context_->enqueueV3(static_cast<cudaStream_t>(stream))) return {};
    return logger_.failure("TensorRT failed", Code::kInternal);
  }

  std::vector<std::int64_t> produced_shape(const TensorInfo& tensor) override {
    return from_dims(allocators_.at(tensor.name)->dims());
  }

 private:
  std::map<std::string, std::unique_ptr<Allocator>, std::less<>> allocators_;  // Outlive the context, which calls them.
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  Logger& logger_;
};

class NvPlan final : public Plan {
 public:
  explicit NvPlan(Logger& logger) noexcept : logger_(logger) {}

  Status open(const Libraries& libraries, std::span<const std::byte> plan, const Recipe& recipe) {
    logger_.forget();
    nvinfer1::ILogger* const logger = &logger_;
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(libraries.create_runtime(logger, NV_TENSORRT_VERSION)));
    if (!runtime_) return logger_.failure("TensorRT's runtime does not start", Code::kInternal);
    if (recipe.dla_core) runtime_->setDLACore(static_cast<std::int32_t>(*recipe.dla_core));
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) return logger_.failure("TensorRT does not take the plan", Code::kIncompatible);
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* const name = engine_->getIOTensorName(i);
      tensors_.push_back({.name = name,
                          .is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT,
                          .on_host = engine_->getTensorLocation(name) == nvinfer1::TensorLocation::kHOST,
                          .dtype = dtype_of(engine_->getTensorDataType(name)),
                          .shape = from_dims(engine_->getTensorShape(name))});
    }
    return {};
  }

  [[nodiscard]] const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  Result<std::unique_ptr<Execution>> make_execution() override {
    const std::lock_guard lock(mutex_);  // TensorRT's word is only that contexts may run at once, not be made at once.
    logger_.forget();
    nvinfer1::IExecutionContext* const context = engine_->createExecutionContext();
    if (context == nullptr) return logger_.failure("TensorRT makes no execution", Code::kResourceExhausted);
    return std::unique_ptr<Execution>(std::make_unique<NvExecution>(context, logger_));
  }

 private:
  Logger& logger_;
  std::mutex mutex_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace

Result<std::unique_ptr<Plan>> load_plan(const Libraries& libraries, Logger& logger, std::span<const std::byte> plan,
                                        const Recipe& recipe) {
  auto opened = std::make_unique<NvPlan>(logger);
  EDGEBUILD_RETURN_IF_ERROR(opened->open(libraries, plan, recipe));
  return std::unique_ptr<Plan>(std::move(opened));
}

}  // namespace edgebuild::tensorrt
