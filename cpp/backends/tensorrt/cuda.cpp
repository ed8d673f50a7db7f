#include "tensorrt/cuda.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace edgebuild::tensorrt {
namespace {

// From CUDA's documentation of its runtime API; they have not changed since they came.
constexpr int kSuccess = 0;
constexpr int kErrorMemoryAllocation = 2;
constexpr int kErrorInsufficientDriver = 35;
constexpr int kErrorNoDevice = 100;
constexpr int kAttributeMultiprocessors = 16;
constexpr int kAttributeMajor = 75;
constexpr int kAttributeMinor = 76;
constexpr int kMemcpyDefault = 4;
constexpr unsigned kStreamNonBlocking = 1;
constexpr int kCaptureThreadLocal = 1;

constexpr const char* kLibraries[] = {"libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"};

template <typename Function>
bool find(void* library, const char* name, Function* out) {
  *out = reinterpret_cast<Function>(dlsym(library, name));
  return *out != nullptr;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

Result<std::shared_ptr<const Cuda>> Cuda::open() {
  std::string missing;
  Status refused;
  for (const char* const name : kLibraries) {
    void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL);  // Never closed: it has state of its own.
    if (library == nullptr) {
      const char* const error = dlerror();
      missing += (missing.empty() ? "" : "; ") + std::string(error != nullptr ? error : name);
      continue;
    }
    Result<std::shared_ptr<const Cuda>> cuda = from(library);
    // An older runtime beside it may do with the driver that is here.
    if (cuda.ok() || cuda.status().code() != Code::kIncompatible) return cuda;
    if (refused.ok()) refused = cuda.status();
  }
  if (!refused.ok()) return refused;
  return Status(Code::kNotFound, "CUDA's runtime can't be opened: " + missing);
}

Result<std::shared_ptr<const Cuda>> Cuda::from(void* library) {
  std::shared_ptr<Cuda> cuda(new Cuda);
  std::string lacking;
  const auto need = [&](const char* name, auto* out) {
    if (!find(library, name, out)) lacking = name;
  };
  need("cudaGetDeviceCount", &cuda->get_device_count_);
  need("cudaSetDevice", &cuda->set_device_);
  need("cudaDeviceGetAttribute", &cuda->get_attribute_);
  // CUDA 12 has this name for the struct that CUDA 13 gives under the plain one.
  if (!find(library, "cudaGetDeviceProperties_v2", &cuda->get_properties_)) {
    need("cudaGetDeviceProperties", &cuda->get_properties_);
  }
  need("cudaRuntimeGetVersion", &cuda->runtime_get_version_);
  need("cudaDriverGetVersion", &cuda->driver_get_version_);
  need("cudaMemGetInfo", &cuda->mem_get_info_);
  need("cudaMalloc", &cuda->malloc_);
  need("cudaFree", &cuda->free_);
  need("cudaMemcpyAsync", &cuda->memcpy_async_);
  need("cudaStreamCreateWithFlags", &cuda->stream_create_);
  need("cudaStreamDestroy", &cuda->stream_destroy_);
  need("cudaStreamSynchronize", &cuda->stream_synchronize_);
  need("cudaGetErrorString", &cuda->get_error_string_);
  need("cudaGetLastError", &cuda->get_last_error_);
  if (!lacking.empty()) return Status(Code::kIncompatible, "CUDA's runtime library has no function " + lacking);
  const bool records = find(library, "cudaStreamBeginCapture", &cuda->begin_capture_) &&
                       find(library, "cudaStreamEndCapture", &cuda->end_capture_) &&
                       find(library, "cudaGraphInstantiateWithFlags", &cuda->instantiate_) &&
                       find(library, "cudaGraphLaunch", &cuda->graph_launch_) &&
                       find(library, "cudaGraphDestroy", &cuda->graph_destroy_) &&
                       find(library, "cudaGraphExecDestroy", &cuda->graph_exec_destroy_);
  if (!records) cuda->begin_capture_ = nullptr;
  int count = 0;
  const int error = cuda->get_device_count_(&count);
  if (error == kErrorInsufficientDriver && cuda->driver_version() == "0.0") {
    return Status(Code::kNotFound, "there is no NVIDIA driver, so there is no CUDA device");
  }
  if (error == kErrorInsufficientDriver) {
    return Status(Code::kIncompatible, "the driver knows CUDA " + cuda->driver_version() +
                                           ", the runtime library is CUDA " + cuda->runtime_version() +
                                           ": install a newer driver, or an older CUDA runtime");
  }
  if (error == kErrorNoDevice || (error == kSuccess && count == 0)) {
    return Status(Code::kNotFound, "there is no CUDA device");
  }
  EDGEBUILD_RETURN_IF_ERROR(cuda->take(error, "CUDA does not start"));
  return std::shared_ptr<const Cuda>(std::move(cuda));
}

Status Cuda::take(int error, const std::string& what) const {
  if (error == kSuccess) return {};
  get_last_error_();  // Clears what would come back from the next call.
  const Code code = error == kErrorMemoryAllocation ? Code::kResourceExhausted : Code::kInternal;
  return Status(code, what + ": " + get_error_string_(error));
}

std::string Cuda::runtime_version() const {
  int version = 0;
  return runtime_get_version_(&version) == kSuccess ? version_text(version) : "unknown";
}

std::string Cuda::driver_version() const {
  int version = 0;
  return driver_get_version_(&version) == kSuccess ? version_text(version) : "unknown";
}

Result<std::string> Cuda::describe_device(std::uint32_t device) const {
  int count = 0;
  EDGEBUILD_RETURN_IF_ERROR(take(get_device_count_(&count), "CUDA devices can't be counted"));
  const int number = static_cast<int>(device);
  if (number >= count) {
    return Status(Code::kNotFound,
                  "there is no CUDA device " + std::to_string(device) + ", this machine has " + std::to_string(count));
  }
  std::array<int, 3> values{};
  const std::array<int, 3> attributes = {kAttributeMajor, kAttributeMinor, kAttributeMultiprocessors};
  for (std::size_t i = 0; i < values.size(); ++i) {
    EDGEBUILD_RETURN_IF_ERROR(take(get_attribute_(&values[i], attributes[i], number), "a CUDA device says nothing"));
  }
  // The struct has about 1 KiB and grew from major to major; in all of them it begins with the name.
  alignas(16) std::array<char, 16384> properties{};
  EDGEBUILD_RETURN_IF_ERROR(take(get_properties_(properties.data(), number), "a CUDA device says nothing"));
  std::string name(properties.data(), strnlen(properties.data(), 255));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return name + ", " + std::to_string(values[0]) + "." + std::to_string(values[1]) + ", " + std::to_string(values[2]) +
         " SMs";
}

Result<std::uint64_t> Cuda::free_memory(std::uint32_t device) const {
  EDGEBUILD_RETURN_IF_ERROR(use(device));
  std::size_t free = 0;
  std::size_t total = 0;
  EDGEBUILD_RETURN_IF_ERROR(take(mem_get_info_(&free, &total), "the GPU's memory"));
  return std::uint64_t{free};
}

Status Cuda::use(std::uint32_t device) const {
  return take(set_device_(static_cast<int>(device)), "CUDA device " + std::to_string(device));
}

Status Cuda::allocate(std::size_t size, void** out) const {
  return take(malloc_(out, size), "no " + std::to_string(size) + " bytes of GPU memory");
}

void Cuda::free(void* memory) const noexcept { free_(memory); }

Status Cuda::copy(void* to, const void* from, std::size_t size, Stream stream) const {
  if (size == 0) return {};
  return take(memcpy_async_(to, from, size, kMemcpyDefault, stream), "a copy between host and GPU");
}

Status Cuda::make_stream(Stream* out) const { return take(stream_create_(out, kStreamNonBlocking), "a CUDA stream"); }

void Cuda::destroy_stream(Stream stream) const noexcept { stream_destroy_(stream); }

Status Cuda::wait(Stream stream) const { return take(stream_synchronize_(stream), "the GPU"); }

Status Cuda::begin_recording(Stream stream) const {
  if (begin_capture_ == nullptr) return Status(Code::kUnsupported, "this CUDA runtime records no graphs");
  return take(begin_capture_(stream, kCaptureThreadLocal), "a CUDA graph");
}

Status Cuda::end_recording(Stream stream, Graph* out) const {
  *out = nullptr;
  void* recorded = nullptr;
  EDGEBUILD_RETURN_IF_ERROR(take(end_capture_(stream, &recorded), "a CUDA graph"));
  const Status made = take(instantiate_(out, recorded, 0), "a CUDA graph");
  graph_destroy_(recorded);
  if (!made.ok()) *out = nullptr;
  return made;
}

Status Cuda::launch(Graph graph, Stream stream) const { return take(graph_launch_(graph, stream), "a CUDA graph"); }

void Cuda::destroy_graph(Graph graph) const noexcept { graph_exec_destroy_(graph); }

Status DeviceMemory::reserve(std::size_t size) {
  const std::size_t wanted = std::max<std::size_t>(size, 256);  // TensorRT wants an address also for nothing.
  if (memory_ != nullptr && wanted <= size_) return {};
  void* memory = nullptr;
  if (memory_ != nullptr) cuda_->free(memory_);
  memory_ = nullptr;
  size_ = 0;
  EDGEBUILD_RETURN_IF_ERROR(cuda_->allocate(wanted, &memory));
  memory_ = memory;
  size_ = wanted;
  return {};
}

}  // namespace edgebuild::tensorrt
