// TensorRT's libraries, opened at run time, and what it says.

#include <dlfcn.h>

#include <algorithm>
#include <string_view>

#include "tensorrt/nvinfer/nvinfer.hpp"

namespace edgebuild::tensorrt {
namespace {

#define EDGEBUILD_TEXT_OF(number) #number
#define EDGEBUILD_TEXT(number) EDGEBUILD_TEXT_OF(number)
#define EDGEBUILD_SONAME(stem) stem ".so." EDGEBUILD_TEXT(NV_TENSORRT_MAJOR)

struct Version {
  std::int32_t major = 0;
  std::int32_t minor = 0;
  std::int32_t patch = 0;
  std::int32_t build = 0;

  [[nodiscard]] std::string text() const {
    return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch) + "." +
           std::to_string(build);
  }
};

Result<void*> open(const char* name) {
  void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL);  // Never closed: it has threads and state.
  if (library != nullptr) return library;
  const char* const reason = dlerror();
  return Status(Code::kNotFound, "TensorRT " EDGEBUILD_TEXT(NV_TENSORRT_MAJOR) " can't be opened: " +
                                     std::string(reason != nullptr ? reason : name) +
                                     " (JetPack, or NVIDIA's TensorRT package, brings it)");
}

template <typename Function>
Status find(void* library, const char* library_name, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  if (*out != nullptr) return {};
  return Status(Code::kIncompatible,
                std::string(library_name) + " is not the TensorRT library that is meant: it has no " + name);
}

/// Operators that TensorRT itself brings as plugins; not every installation has them, and most models need none.
void open_builtin_plugins(Logger& logger) noexcept {
  void* const library = dlopen(EDGEBUILD_SONAME("libnvinfer_plugin"), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) return;
  const auto initialise = reinterpret_cast<bool (*)(void*, const char*)>(dlsym(library, "initLibNvInferPlugins"));
  if (initialise != nullptr) static_cast<void>(initialise(static_cast<nvinfer1::ILogger*>(&logger), ""));
}

class TensorRt final : public Engine {
 public:
  explicit TensorRt(const eb_host_api& host) : logger_(std::make_unique<Logger>(host)) {}

  Status start() {
    Result<Libraries> libraries = open_libraries(*logger_);
    if (!libraries.ok()) return libraries.status();
    libraries_ = std::move(libraries).value();
    return {};
  }

  [[nodiscard]] const std::string& version() const override { return libraries_.version; }

  Result<BuiltPlan> build(std::span<const std::byte> onnx, const Recipe& recipe,
                          std::span<const std::byte> timing_cache, const Progress& progress) override {
    return build_plan(libraries_, *logger_, onnx, recipe, timing_cache, progress);
  }

  Result<std::unique_ptr<Plan>> load(std::span<const std::byte> plan, const Recipe& recipe) override {
    return load_plan(libraries_, *logger_, plan, recipe);
  }

 private:
  std::unique_ptr<Logger> logger_;
  Libraries libraries_;
};

}  // namespace

void Logger::log(Severity severity, nvinfer1::AsciiChar const* message) noexcept {
  const bool error = severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR;
  if (error) {
    const std::lock_guard lock(mutex_);
    if (first_error_.empty()) {
      try {
        first_error_ = message;
      } catch (...) {  // Without memory for its text the error is still one.
      }
    }
    const std::string_view text = message;
    out_of_memory_ = out_of_memory_ || text.find("OutOfMemory") != std::string_view::npos ||
                     text.find("out of memory") != std::string_view::npos;
  }
  // Errors come back as the failure of a call; said in the log too, they would be said twice.
  const eb_severity level = error || severity == Severity::kVERBOSE ? EB_LOG_DEBUG
                            : severity == Severity::kWARNING        ? EB_LOG_WARNING
                                                                    : EB_LOG_INFO;
  plugin::log(host_, level, message);
}

void Logger::forget() noexcept {
  const std::lock_guard lock(mutex_);
  first_error_.clear();
  out_of_memory_ = false;
}

Status Logger::failure(const std::string& what, Code code) {
  const std::lock_guard lock(mutex_);
  std::string text = what + ": " + (first_error_.empty() ? "TensorRT does not say why" : first_error_);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return Status(out_of_memory_ ? Code::kResourceExhausted : code, text);
}

Result<Libraries> open_libraries(Logger& logger) {
  constexpr const char* kCore = EDGEBUILD_SONAME("libnvinfer");
  constexpr const char* kParser = EDGEBUILD_SONAME("libnvonnxparser");
  Result<void*> core = open(kCore);
  if (!core.ok()) return core.status();
  Result<void*> parser = open(kParser);
  if (!parser.ok()) return parser.status();
  Version version;
  struct Part {
    const char* name;
    std::int32_t* out;
  };
  for (const Part& part :
       {Part{"getInferLibMajorVersion", &version.major}, Part{"getInferLibMinorVersion", &version.minor},
        Part{"getInferLibPatchVersion", &version.patch}, Part{"getInferLibBuildVersion", &version.build}}) {
    std::int32_t (*get)() = nullptr;
    EDGEBUILD_RETURN_IF_ERROR(find(core.value(), kCore, part.name, &get));
    *part.out = get();
  }
  if (version.major != NV_TENSORRT_MAJOR || version.minor < NV_TENSORRT_MINOR) {
    return Status(Code::kIncompatible, "the plugin is compiled for TensorRT " EDGEBUILD_TEXT(NV_TENSORRT_MAJOR) "." +
                                           std::to_string(NV_TENSORRT_MINOR) + " or a later one of that major, " +
                                           kCore + " is " + version.text());
  }
  Libraries libraries;
  libraries.version = version.text();
  EDGEBUILD_RETURN_IF_ERROR(find(core.value(), kCore, "createInferBuilder_INTERNAL", &libraries.create_builder));
  EDGEBUILD_RETURN_IF_ERROR(find(core.value(), kCore, "createInferRuntime_INTERNAL", &libraries.create_runtime));
  EDGEBUILD_RETURN_IF_ERROR(find(parser.value(), kParser, "createNvOnnxParser_INTERNAL", &libraries.create_parser));
  open_builtin_plugins(logger);
  return libraries;
}

Result<std::unique_ptr<Engine>> open_engine(const eb_host_api& host) {
  auto engine = std::make_unique<TensorRt>(host);
  EDGEBUILD_RETURN_IF_ERROR(engine->start());
  return std::unique_ptr<Engine>(std::move(engine));
}

std::uint32_t dtype_of(nvinfer1::DataType type) noexcept {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return EB_FLOAT32;
    case nvinfer1::DataType::kHALF:
      return EB_FLOAT16;
    case nvinfer1::DataType::kBF16:
      return EB_BFLOAT16;
    case nvinfer1::DataType::kINT8:
      return EB_INT8;
    case nvinfer1::DataType::kUINT8:
      return EB_UINT8;
    case nvinfer1::DataType::kINT32:
      return EB_INT32;
    case nvinfer1::DataType::kINT64:
      return EB_INT64;
    case nvinfer1::DataType::kBOOL:
      return EB_BOOL;
    case nvinfer1::DataType::kFP8:
      return EB_FLOAT8_E4M3FN;
    case nvinfer1::DataType::kINT4:
      return EB_INT4;
    default:
      return EB_DTYPE_UNDEFINED;
  }
}

bool to_dims(std::span<const std::int64_t> shape, nvinfer1::Dims* out) noexcept {
  if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) return false;
  out->nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), out->d);
  return true;
}

std::vector<std::int64_t> from_dims(const nvinfer1::Dims& dims) {
  if (dims.nbDims < 0) return {-1};  // Not known: a shape that no run can have.
  return {dims.d, dims.d + dims.nbDims};
}

}  // namespace edgebuild::tensorrt
