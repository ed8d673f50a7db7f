// The few functions of CUDA's runtime that the backend needs, opened at run time: nothing of CUDA is needed to build
// it.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_CUDA_HPP_
#define EDGEBUILD_BACKENDS_TENSORRT_CUDA_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "edgebuild/status.hpp"

namespace edgebuild::tensorrt {

/// The runtime library. Threads: any; each names the device that it means.
class Cuda {
 public:
  using Stream = void*;
  using Graph = void*;  ///< Work that was recorded and can be queued as one.

  /// Opens the newest library whose driver is there, and looks for a device.
  ///
  /// @return kNotFound: there is no library, or no device; kIncompatible: the driver is older than each library needs,
  ///         or the library lacks a function.
  static Result<std::shared_ptr<const Cuda>> open();

  [[nodiscard]] std::string runtime_version() const;  ///< E.g. "12.6".
  [[nodiscard]] std::string driver_version() const;   ///< The newest CUDA that the driver knows, e.g. "12.6".
  /// Name, compute capability and multiprocessors, e.g. "Orin, 8.7, 16 SMs". kNotFound: no such device.
  [[nodiscard]] Result<std::string> describe_device(std::uint32_t device) const;
  [[nodiscard]] Result<std::uint64_t> free_memory(std::uint32_t device) const;

  /// Makes `device` the one that this thread's further calls mean.
  [[nodiscard]] Status use(std::uint32_t device) const;
  [[nodiscard]] Status allocate(std::size_t size, void** out) const;
  void free(void* memory) const noexcept;
  /// Copies between host and device, in the stream's order. What it does not know it finds out from the addresses.
  [[nodiscard]] Status copy(void* to, const void* from, std::size_t size, Stream stream) const;
  [[nodiscard]] Status make_stream(Stream* out) const;
  void destroy_stream(Stream stream) const noexcept;
  [[nodiscard]] Status wait(Stream stream) const;

  /// Begins to record what this thread queues on a stream, instead of running it. kUnsupported: the library can't.
  [[nodiscard]] Status begin_recording(Stream stream) const;
  /// Ends it, also where what was queued failed. NULL and a failure: it can't be recorded.
  [[nodiscard]] Status end_recording(Stream stream, Graph* out) const;
  [[nodiscard]] Status launch(Graph graph, Stream stream) const;
  void destroy_graph(Graph graph) const noexcept;

 private:
  Cuda() = default;
  static Result<std::shared_ptr<const Cuda>> from(void* library);
  [[nodiscard]] Status take(int error, const std::string& what) const;

  int (*get_device_count_)(int*) = nullptr;
  int (*set_device_)(int) = nullptr;
  int (*get_attribute_)(int*, int, int) = nullptr;
  int (*get_properties_)(void*, int) = nullptr;
  int (*runtime_get_version_)(int*) = nullptr;
  int (*driver_get_version_)(int*) = nullptr;
  int (*mem_get_info_)(std::size_t*, std::size_t*) = nullptr;
  int (*malloc_)(void**, std::size_t) = nullptr;
  int (*free_)(void*) = nullptr;
  int (*memcpy_async_)(void*, const void*, std::size_t, int, Stream) = nullptr;
  int (*stream_create_)(Stream*, unsigned) = nullptr;
  int (*stream_destroy_)(Stream) = nullptr;
  int (*stream_synchronize_)(Stream) = nullptr;
  int (*begin_capture_)(Stream, int) = nullptr;  // These may be missing.
  int (*end_capture_)(Stream, void**) = nullptr;
  int (*instantiate_)(Graph*, void*, unsigned long long) = nullptr;
  int (*graph_launch_)(Graph, Stream) = nullptr;
  int (*graph_destroy_)(void*) = nullptr;
  int (*graph_exec_destroy_)(Graph) = nullptr;
  const char* (*get_error_string_)(int) = nullptr;
  int (*get_last_error_)() = nullptr;
};

/// Device memory that only grows.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::shared_ptr<const Cuda> cuda) noexcept : cuda_(std::move(cuda)) {}
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    if (memory_ != nullptr) cuda_->free(memory_);
  }
  /// At least `size` bytes; the content is lost if it grows. Never NULL if ok, also for size 0.
  [[nodiscard]] Status reserve(std::size_t size);
  [[nodiscard]] void* get() const noexcept { return memory_; }

 private:
  std::shared_ptr<const Cuda> cuda_;
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace edgebuild::tensorrt

#endif  // EDGEBUILD_BACKENDS_TENSORRT_CUDA_HPP_
