// A double of CUDA's runtime: host memory plays the device's. EDGEBUILD_TENSORRT_DOUBLE names the folder that says how
// it behaves:
//   gpu      the device's name, default "Double"      none     there is no device
//   driver   CUDA version of the driver, e.g. 12020   free_mib free memory of the device
//   ungraphed nothing can be recorded
// Each copy and each launch of a graph is counted. What the double of the engine queues on a stream that is recorded it
// hands to edgebuild_double_record.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kOutOfMemory = 2;
constexpr int kInsufficientDriver = 35;
constexpr int kNoDevice = 100;
constexpr int kCaptureInvalid = 901;
constexpr int kRuntime = EDGEBUILD_DOUBLE_CUDART;
int copies = 0;
int launches = 0;

struct Work {
  void (*run)(void*);
  void* data;
};
using Recording = std::vector<Work>;
thread_local Recording* recording = nullptr;

std::string read(const char* name, const char* otherwise) {
  const char* const folder = std::getenv("EDGEBUILD_TENSORRT_DOUBLE");
  std::FILE* const file =
      std::fopen((std::string(folder != nullptr ? folder : "/nonexistent") + "/" + name).c_str(), "rb");
  if (file == nullptr) return otherwise;
  char text[256] = {};
  const std::size_t size = std::fread(text, 1, sizeof(text) - 1, file);
  std::fclose(file);
  return {text, size};
}

}  // namespace

EXPORT int cudaGetDeviceCount(int* count) {
  *count = 1;
  if (std::atoi(read("driver", "13000").c_str()) < kRuntime) return kInsufficientDriver;
  return read("none", "").empty() ? 0 : kNoDevice;
}
EXPORT int cudaSetDevice(int device) { return device == 0 ? 0 : 101; }
EXPORT int cudaDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 16;
  return 0;
}
EXPORT int cudaGetDeviceProperties_v2(void* properties, int /*device*/) {
  std::memset(properties, 0, 1032);
  std::strncpy(static_cast<char*>(properties), read("gpu", "Double").c_str(), 255);
  return 0;
}
EXPORT int cudaRuntimeGetVersion(int* version) {
  *version = kRuntime;
  return 0;
}
EXPORT int cudaDriverGetVersion(int* version) {
  *version = std::atoi(read("driver", "13000").c_str());
  return 0;
}
EXPORT int cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = static_cast<std::size_t>(std::atoi(read("free_mib", "4096").c_str())) << 20;
  *total = *free;
  return 0;
}
EXPORT int cudaMalloc(void** memory, std::size_t size) {
  if (size > std::size_t{1} << 30) return kOutOfMemory;
  *memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
  return *memory != nullptr ? 0 : kOutOfMemory;
}
EXPORT int cudaFree(void* memory) {
  std::free(memory);
  return 0;
}
EXPORT int cudaMemcpyAsync(void* to, const void* from, std::size_t size, int /*kind*/, void* /*stream*/) {
  std::memcpy(to, from, size);
  ++copies;
  return 0;
}
EXPORT int cudaStreamCreateWithFlags(void** stream, unsigned /*flags*/) {
  *stream = &copies;
  return 0;
}
EXPORT int cudaStreamDestroy(void* /*stream*/) { return 0; }
EXPORT int cudaStreamSynchronize(void* /*stream*/) { return 0; }
EXPORT const char* cudaGetErrorString(int error) { return error == kOutOfMemory ? "out of memory" : "invalid device"; }
EXPORT int cudaGetLastError() { return 0; }
EXPORT int cudaStreamBeginCapture(void* /*stream*/, int mode) {
  if (mode != 1 || recording != nullptr) return 1;
  recording = new Recording;
  return 0;
}
EXPORT int cudaStreamEndCapture(void* /*stream*/, void** graph) {
  *graph = recording;
  recording = nullptr;
  if (read("ungraphed", "").empty()) return 0;
  delete static_cast<Recording*>(*graph);
  *graph = nullptr;
  return kCaptureInvalid;
}
EXPORT int cudaGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
  *executable = new Recording(*static_cast<Recording*>(graph));
  return flags == 0 ? 0 : 1;
}
EXPORT int cudaGraphLaunch(void* executable, void* /*stream*/) {
  ++launches;
  for (const Work& work : *static_cast<Recording*>(executable)) work.run(work.data);
  return 0;
}
EXPORT int cudaGraphDestroy(void* graph) {
  delete static_cast<Recording*>(graph);
  return 0;
}
EXPORT int cudaGraphExecDestroy(void* executable) {
  delete static_cast<Recording*>(executable);
  return 0;
}
/// Whether a stream is recorded; then `run` is called with `data` whenever the recording is launched.
EXPORT int edgebuild_double_record(void (*run)(void*), void* data) {
  if (recording == nullptr) return 0;
  recording->push_back({run, data});
  return 1;
}
EXPORT int edgebuild_double_copies() { return copies; }
EXPORT int edgebuild_double_launches() { return launches; }
