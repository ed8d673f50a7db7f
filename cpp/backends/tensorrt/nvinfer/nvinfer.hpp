// TensorRT behind engine.hpp's seam. Compiled once a major version, against that major's headers; the libraries are
// opened at run time, so that nothing but headers is needed here.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_NVINFER_NVINFER_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_NVINFER_NVINFER_HPP_

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/plugin.hpp"
#include "tensorrt/engine.hpp"

static_assert(NV_TENSORRT_MAJOR == 10 || NV_TENSORRT_MAJOR == 11, "the backend knows TensorRT 10 and 11");

namespace edgebuild::tensorrt {

/// What TensorRT says: to the host's log, and its last error kept, for TensorRT's calls fail without saying why.
/// Threads: any.
class Logger final : public nvinfer1::ILogger {
 public:
  explicit Logger(const eb_host_api& host) noexcept : host_(host) {}
  void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;
  void forget() noexcept;
  /// A failure with the first error since forget(), e.g. "WHAT: Error Code 4: …".
  [[nodiscard]] Status failure(const std::string& what, Code code);

 private:
  const eb_host_api& host_;
  std::mutex mutex_;
  std::string first_error_;
  bool out_of_memory_ = false;
};

/// The libraries' entry points. They stay open until the process ends.
struct Libraries {
  std::string version;
  void* (*create_builder)(void* logger, std::int32_t version) = nullptr;
  void* (*create_runtime)(void* logger, std::int32_t version) = nullptr;
  void* (*create_parser)(void* network, void* logger, int version) = nullptr;
};

/// @return kNotFound, kIncompatible; as open_engine.
[[nodiscard]] Result<Libraries> open_libraries(Logger& logger);

/// TensorRT's number of a type as ours; UNDEFINED if there is none.
[[nodiscard]] std::uint32_t dtype_of(nvinfer1::DataType type) noexcept;
/// @return nothing if there are too many axes.
[[nodiscard]] bool to_dims(std::span<const std::int64_t> shape, nvinfer1::Dims* out) noexcept;
[[nodiscard]] std::vector<std::int64_t> from_dims(const nvinfer1::Dims& dims);

/// See Engine.
[[nodiscard]] Result<BuiltPlan> build_plan(const Libraries& libraries, Logger& logger, std::span<const std::byte> onnx,
                                           const Recipe& recipe, std::span<const std::byte> timing_cache,
                                           const Progress& progress);
[[nodiscard]] Result<std::unique_ptr<Plan>> load_plan(const Libraries& libraries, Logger& logger,
                                                      std::span<const std::byte> plan, const Recipe& recipe);

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_NVINFER_NVINFER_HPP_
