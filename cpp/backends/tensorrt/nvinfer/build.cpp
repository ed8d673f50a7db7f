// From ONNX and a recipe to a plan.

#include <algorithm>
#include <cstring>
#include <map>
#include <thread>

#include "tensorrt/nvinfer/nvinfer.hpp"

namespace edgebuild::tensorrt {
namespace {

/// Tells a build's phases. TensorRT calls it from threads of its own.
class Monitor final : public nvinfer1::IProgressMonitor {
 public:
  explicit Monitor(const Progress& progress) noexcept : progress_(progress) {}

  void phaseStart(char const* phase, char const* /*parent*/, std::int32_t steps) noexcept override {
    const std::lock_guard lock(mutex_);
    try {
      steps_[phase] = steps;
    } catch (...) {  // Progress is not worth failing for.
    }
  }

  bool stepComplete(char const* phase, std::int32_t step) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto found = steps_.find(phase);
    if (found != steps_.end() && found->second > 0 && step >= 0) {
      progress_(phase, static_cast<std::uint32_t>(step) + 1, static_cast<std::uint32_t>(found->second));
    }
    return true;
  }

  void phaseFinish(char const* phase) noexcept override {
    const std::lock_guard lock(mutex_);
    const auto found = steps_.find(phase);
    if (found != steps_.end()) steps_.erase(found);
  }

 private:
  const Progress& progress_;
  std::mutex mutex_;
  std::map<std::string, std::int32_t, std::less<>> steps_;
};

Bytes copy_of(const nvinfer1::IHostMemory& memory) {
  Bytes bytes(memory.size());
  if (memory.size() != 0) std::memcpy(bytes.data(), memory.data(), memory.size());
  return bytes;
}

/// One build: TensorRT's objects, in the order in which they depend on each other.
class Build {
 public:
  Build(const Libraries& libraries, Logger& logger, const Recipe& recipe) noexcept
      : libraries_(libraries), logger_(logger), recipe_(recipe) {}

  Result<BuiltPlan> run(std::span<const std::byte> onnx, std::span<const std::byte> timing_cache,
                        const Progress& progress) {
    logger_.forget();
    EDGEBUILD_RETURN_IF_ERROR(make_objects());
    if (progress) progress("reading the model", 0, 0);
    EDGEBUILD_RETURN_IF_ERROR(parse(onnx));
    EDGEBUILD_RETURN_IF_ERROR(configure());
    EDGEBUILD_RETURN_IF_ERROR(add_profile());
    EDGEBUILD_RETURN_IF_ERROR(use_timing_cache(timing_cache));
    Monitor monitor(progress);
    if (progress) config_->setProgressMonitor(&monitor);
    logger_.forget();
    const std::unique_ptr<nvinfer1::IHostMemory> plan(builder_->buildSerializedNetwork(*network_, *config_));
    config_->setProgressMonitor(nullptr);
    if (!plan) return logger_.failure("TensorRT can't build a plan", Code::kUnsupported);
    BuiltPlan built;
    built.plan = copy_of(*plan);
    const nvinfer1::ITimingCache* const measured = recipe_.timing_cache ? config_->getTimingCache() : nullptr;
    if (measured != nullptr) {
      const std::unique_ptr<nvinfer1::IHostMemory> bytes(measured->serialize());
      if (bytes) built.timing_cache = copy_of(*bytes);
    }
    return built;
  }

 private:
  Status make_objects() {
    nvinfer1::ILogger* const logger = &logger_;
    builder_.reset(static_cast<nvinfer1::IBuilder*>(libraries_.create_builder(logger, NV_TENSORRT_VERSION)));
    if (!builder_) return logger_.failure("TensorRT's builder does not start", Code::kInternal);
    static_cast<void>(
        builder_->setMaxThreads(static_cast<std::int32_t>(std::max(1u, std::thread::hardware_concurrency()))));
    network_.reset(builder_->createNetworkV2(network_flags()));
    config_.reset(builder_->createBuilderConfig());
    if (!network_ || !config_) return logger_.failure("TensorRT's builder does not start", Code::kInternal);
    parser_.reset(
        static_cast<nvonnxparser::IParser*>(libraries_.create_parser(network_.get(), logger, NV_ONNX_PARSER_VERSION)));
    if (!parser_) return logger_.failure("TensorRT's ONNX parser does not start", Code::kInternal);
    return {};
  }

  /// The model's own types hold: precision is in the ONNX, as casts and Q/DQ. DLAs know no such networks in major 10.
  [[nodiscard]] nvinfer1::NetworkDefinitionCreationFlags network_flags() const noexcept {
#if NV_TENSORRT_MAJOR == 10
    if (recipe_.dla_core) return 0;
    return 1u << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    return 0;  // There is no other kind.
#endif
  }

  Status parse(std::span<const std::byte> onnx) {
    if (parser_->parse(onnx.data(), onnx.size())) return {};
    for (int i = 0; i < parser_->getNbErrors(); ++i) {
      const nvonnxparser::IParserError* const error = parser_->getError(i);
      if (error == nullptr || error->desc() == nullptr) continue;
      std::string text = "TensorRT can't read the model";
      if (error->node() >= 0) text += ", node " + std::to_string(error->node());
      text += std::string(": ") + error->desc();
      std::replace_if(
          text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
      return Status(Code::kUnsupported, text);
    }
    return logger_.failure("TensorRT can't read the model", Code::kUnsupported);
  }

  Status configure() {
    config_->setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, static_cast<std::size_t>(recipe_.workspace_mib)
                                                                          << 20);
    config_->setBuilderOptimizationLevel(static_cast<std::int32_t>(recipe_.optimization_level));
    if (recipe_.sparsity) config_->setFlag(nvinfer1::BuilderFlag::kSPARSE_WEIGHTS);
    if (!recipe_.tf32) config_->clearFlag(nvinfer1::BuilderFlag::kTF32);
    if (!recipe_.dla_core) return {};
    const std::int32_t cores = builder_->getNbDLACores();
    if (static_cast<std::int32_t>(*recipe_.dla_core) >= cores) {
      return Status(Code::kUnsupported, "the recipe asks for DLA core " + std::to_string(*recipe_.dla_core) +
                                            ", this machine has " + std::to_string(cores));
    }
    config_->setDefaultDeviceType(nvinfer1::DeviceType::kDLA);
    config_->setDLACore(static_cast<std::int32_t>(*recipe_.dla_core));
    config_->setFlag(nvinfer1::BuilderFlag::kGPU_FALLBACK);
#if NV_TENSORRT_MAJOR == 10
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    config_->setFlag(nvinfer1::BuilderFlag::kFP16);  // A DLA computes in nothing wider.
    if (is_quantised()) config_->setFlag(nvinfer1::BuilderFlag::kINT8);
#pragma GCC diagnostic pop
#endif
    return {};
  }

#if NV_TENSORRT_MAJOR == 10
  [[nodiscard]] bool is_quantised() const noexcept {
    for (std::int32_t i = 0; i < network_->getNbLayers(); ++i) {
      if (network_->getLayer(i)->getType() == nvinfer1::LayerType::kQUANTIZE) return true;
    }
    return false;
  }
#endif

  Status add_profile() {
    nvinfer1::IOptimizationProfile* profile = nullptr;
    for (std::int32_t i = 0; i < network_->getNbInputs(); ++i) {
      const nvinfer1::ITensor& input = *network_->getInput(i);
      const std::string name = input.getName();
      if (input.isShapeTensor()) {
        return Status(Code::kUnsupported, "input '" + name +
                                              "' decides the shape of other values, which needs a profile "
                                              "of its values; the tensorrt backend has profiles of shapes alone");
      }
      const nvinfer1::Dims dims = input.getDimensions();
      const bool dynamic = std::any_of(dims.d, dims.d + dims.nbDims, [](std::int64_t size) { return size < 0; });
      if (!dynamic) continue;
      const auto found = recipe_.profiles.find(name);
      if (found == recipe_.profiles.end()) {
        return Status(Code::kUsage, "input '" + name + "' has dynamic sizes, and the recipe has no profile." + name);
      }
      if (profile == nullptr) profile = builder_->createOptimizationProfile();
      if (profile == nullptr) return logger_.failure("an optimisation profile", Code::kInternal);
      EDGEBUILD_RETURN_IF_ERROR(set_shapes(*profile, name, dims, found->second));
    }
    if (profile != nullptr && config_->addOptimizationProfile(profile) < 0) {
      return logger_.failure("TensorRT refuses the optimisation profile", Code::kUsage);
    }
    return {};
  }

  Status set_shapes(nvinfer1::IOptimizationProfile& profile, const std::string& name, const nvinfer1::Dims& dims,
                    const ProfileShapes& shapes) {
    const auto set = [&](nvinfer1::OptProfileSelector which, const std::vector<std::int64_t>& shape) {
      nvinfer1::Dims wanted{};
      if (!to_dims(shape, &wanted) || wanted.nbDims != dims.nbDims) return false;
      for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) {
        if (dims.d[axis] >= 0 && dims.d[axis] != wanted.d[axis]) return false;
      }
      return profile.setDimensions(name.c_str(), which, wanted);
    };
    if (set(nvinfer1::OptProfileSelector::kMIN, shapes.min) && set(nvinfer1::OptProfileSelector::kOPT, shapes.best) &&
        set(nvinfer1::OptProfileSelector::kMAX, shapes.max)) {
      return {};
    }
    std::string sizes;
    for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) {
      sizes += (axis > 0 ? "," : "") + std::to_string(dims.d[axis]);
    }
    return Status(Code::kUsage,
                  "profile." + name + " does not fit the input, whose sizes are " + sizes + " (-1: dynamic)");
  }

  Status use_timing_cache(std::span<const std::byte> timing_cache) {
    if (!recipe_.timing_cache) return {};
    cache_.reset(config_->createTimingCache(timing_cache.data(), timing_cache.size()));
    // One that TensorRT refuses costs time, not correctness: it begins with an empty one.
    if (!cache_ || !config_->setTimingCache(*cache_, /*ignoreMismatch=*/false)) {
      cache_.reset(config_->createTimingCache(nullptr, 0));
      if (cache_) static_cast<void>(config_->setTimingCache(*cache_, /*ignoreMismatch=*/false));
    }
    return {};
  }

  const Libraries& libraries_;
  Logger& logger_;
  const Recipe& recipe_;
  std::unique_ptr<nvinfer1::IBuilder> builder_;
  std::unique_ptr<nvinfer1::INetworkDefinition> network_;
  std::unique_ptr<nvinfer1::IBuilderConfig> config_;
  std::unique_ptr<nvinfer1::ITimingCache> cache_;
  std::unique_ptr<nvonnxparser::IParser> parser_;
};

}  // namespace

Result<BuiltPlan> build_plan(const Libraries& libraries, Logger& logger, std::span<const std::byte> onnx,
                             const Recipe& recipe, std::span<const std::byte> timing_cache, const Progress& progress) {
  return Build(libraries, logger, recipe).run(onnx, timing_cache, progress);
}

}  // namespace edgebuild::tensorrt
