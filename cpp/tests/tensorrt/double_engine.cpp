// A double of TensorRT behind engine.hpp's seam, so that what surrounds it is tested without its headers or a GPU.
//
// A model is one line of text: "scale 2" gives y = 2x, "positive" keeps the values above 0 (so that the size of its
// result shows only in the run), "shape" has an output in host memory. A plan is text too. The folder in
// EDGEBUILD_TENSORRT_DOUBLE says how it behaves, and hears what was done; every file of it may be missing:
//   version  the library's, default 10.3.0.26     wrong    the first N plans ever built compute nonsense
//   refuse   builds fail with this text           stale    plans don't load, with this text
//   absent   the library is not there             builds   one byte a build    timing  the timing cache that a build
//   was given slow_ms  how long a build takes

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>

#include "tensorrt/engine.hpp"

namespace edgebuild::tensorrt {
namespace {

std::string path_of(const char* name) {
  const char* const folder = std::getenv("EDGEBUILD_TENSORRT_DOUBLE");
  return std::string(folder != nullptr ? folder : "/nonexistent") + "/" + name;
}

std::string read(const char* name, const std::string& otherwise = "") {
  std::ifstream file(path_of(name), std::ios::binary);
  if (!file) return otherwise;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Bytes bytes_of(const std::string& text) {
  Bytes bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

class DoubleExecution final : public Execution {
 public:
  explicit DoubleExecution(std::string program) : program_(std::move(program)) {}

  Status bind_input(const TensorInfo& /*tensor*/, std::span<const std::int64_t> shape, const void* address) override {
    if (shape.size() == 2 && shape[0] > 8) return Status(Code::kInvalidArgument, "its shape is outside of the profile");
    shape_.assign(shape.begin(), shape.end());
    input_ = static_cast<const float*>(address);
    return {};
  }
  Status output_shape(const TensorInfo& tensor, std::vector<std::int64_t>* out) override {
    *out = shape_;
    if (tensor.on_host) *out = {static_cast<std::int64_t>(shape_.size())};
    if (program_ == "positive") *out = {-1};
    return {};
  }
  Status bind_output(const TensorInfo& /*tensor*/, void* address) override {
    output_ = address;
    return {};
  }
  Status bind_output(const TensorInfo& /*tensor*/, OutputMemory& memory) override {
    memory_ = &memory;
    return {};
  }
  Status enqueue(void* /*stream*/) override {
    if (recorded_ && recorded_(run_again, this) != 0) return {};
    return compute();
  }
  std::vector<std::int64_t> produced_shape(const TensorInfo& /*tensor*/) override { return produced_; }

 private:
  using Record = int (*)(void (*)(void*), void*);

  static void run_again(void* self) { static_cast<void>(static_cast<DoubleExecution*>(self)->compute()); }
  static Record find_record() {
    void* const cudart = dlopen("libcudart.so.13", RTLD_NOW | RTLD_NOLOAD);
    return cudart != nullptr ? reinterpret_cast<Record>(dlsym(cudart, "edgebuild_double_record")) : nullptr;
  }

  Status compute() {
    std::size_t count = 1;
    for (const std::int64_t size : shape_) count *= static_cast<std::size_t>(size);
    if (program_ == "shape") {
      std::memcpy(output_, shape_.data(), shape_.size() * sizeof(std::int64_t));
      return {};
    }
    if (program_ == "positive") {
      std::vector<float> kept;
      for (std::size_t i = 0; i < count; ++i) {
        if (input_[i] > 0) kept.push_back(input_[i]);
      }
      void* const room = memory_->reserve(kept.size() * sizeof(float));
      if (room == nullptr) return Status(Code::kResourceExhausted, "no room");
      if (!kept.empty()) std::memcpy(room, kept.data(), kept.size() * sizeof(float));
      produced_ = {static_cast<std::int64_t>(kept.size())};
      return {};
    }
    const float scale = std::strtof(program_.c_str() + std::strlen("scale "), nullptr);
    for (std::size_t i = 0; i < count; ++i) static_cast<float*>(output_)[i] = scale * input_[i];
    return {};
  }

  std::string program_;
  Record recorded_ = find_record();
  std::vector<std::int64_t> shape_;
  std::vector<std::int64_t> produced_;
  const float* input_ = nullptr;
  void* output_ = nullptr;
  OutputMemory* memory_ = nullptr;
};

class DoublePlan final : public Plan {
 public:
  explicit DoublePlan(std::string program) : program_(std::move(program)) {
    const bool shape = program_ == "shape";
    tensors_.push_back({"x", true, false, EB_FLOAT32, {-1, 3}});
    tensors_.push_back({"y", false, shape, shape ? EB_INT64 : EB_FLOAT32, {-1}});
  }
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Result<std::unique_ptr<Execution>> make_execution() override {
    return std::unique_ptr<Execution>(std::make_unique<DoubleExecution>(program_));
  }

 private:
  std::string program_;
  std::vector<TensorInfo> tensors_;
};

class DoubleEngine final : public Engine {
 public:
  [[nodiscard]] const std::string& version() const override { return version_; }

  Result<BuiltPlan> build(std::span<const std::byte> onnx, const Recipe& /*recipe*/,
                          std::span<const std::byte> timing_cache, const Progress& progress) override {
    std::ofstream(path_of("builds"), std::ios::app) << 'b';
    std::ofstream(path_of("timing"), std::ios::binary) << text_of(timing_cache);
    if (progress) progress("building", 1, 2);
    const std::string slow = read("slow_ms");
    if (!slow.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(std::stoi(slow)));
    const std::string refusal = read("refuse");
    if (!refusal.empty()) return Status(Code::kUnsupported, refusal);
    const std::string wrong = read("wrong", "0");
    const bool nonsense = read("builds").size() <= static_cast<std::size_t>(std::stoi(wrong));
    return BuiltPlan{bytes_of("plan " + (nonsense ? "scale -7" : text_of(onnx))), bytes_of("measured by " + version_)};
  }

  Result<std::unique_ptr<Plan>> load(std::span<const std::byte> plan, const Recipe& /*recipe*/) override {
    const std::string stale = read("stale");
    if (!stale.empty()) return Status(Code::kIncompatible, stale);
    const std::string text = text_of(plan);
    // Whoever gets here with other bytes has deserialised what was never built.
    if (!text.starts_with("plan ")) std::abort();
    return std::unique_ptr<Plan>(std::make_unique<DoublePlan>(text.substr(5)));
  }

 private:
  std::string version_ = read("version", "10.3.0.26");
};

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const eb_host_api& /*host*/) {
  if (!read("absent").empty()) return Status(Code::kNotFound, "TensorRT 10 can't be opened: libnvinfer.so.10: absent");
  return std::unique_ptr<Engine>(std::make_unique<DoubleEngine>());
}

}  // namespace edgebuild::tensorrt
