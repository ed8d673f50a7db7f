// What is opened of CUDA's runtime, against its double (found through LD_LIBRARY_PATH, as a board's own would be).

#include "tensorrt/cuda.hpp"

#include <doctest/doctest.h>

#include <array>

#include "double.hpp"

namespace {

using namespace edgebuild;            // NOLINT
using namespace edgebuild::tensorrt;  // NOLINT
using edgebuild::testing::Double;

TEST_CASE("a device is described by its name, compute capability and multiprocessors") {
  const Double control;
  control.set("gpu", "Orin\n");
  const Result<std::shared_ptr<const Cuda>> cuda = Cuda::open();
  REQUIRE(cuda.ok());
  CHECK(cuda.value()->runtime_version() == "12.6");
  CHECK(cuda.value()->driver_version() == "13.0");
  CHECK(cuda.value()->describe_device(0).value() == "Orin?, 8.7, 16 SMs");
  CHECK(cuda.value()->describe_device(1).status().message() == "there is no CUDA device 1, this machine has 1");
}

TEST_CASE("no device and a driver that is too old are told apart") {
  const Double control;
  control.set("none", "1");
  CHECK(Cuda::open().status().code() == Code::kNotFound);
  CHECK(Cuda::open().status().message() == "there is no CUDA device");
  control.set("driver", "11040");
  const Status old = Cuda::open().status();
  CHECK(old.code() == Code::kIncompatible);
  control.set("driver", "0");
  CHECK(Cuda::open().status().message() == "there is no NVIDIA driver, so there is no CUDA device");
  CHECK(old.message().find("the driver knows CUDA 11.4, the runtime library is CUDA 12.6") == 0);
}

TEST_CASE("a runtime that is too new for the driver gives way to an older one beside it") {
  const Double control;
  control.set("driver", "12040");
  const Result<std::shared_ptr<const Cuda>> cuda = Cuda::open();
  REQUIRE(cuda.ok());
  CHECK(cuda.value()->runtime_version() == "12.2");
  CHECK(cuda.value()->driver_version() == "12.4");
}

TEST_CASE("device memory grows, never shrinks, and is there also for nothing") {
  const Double control;
  const Result<std::shared_ptr<const Cuda>> cuda = Cuda::open();
  REQUIRE(cuda.ok());
  DeviceMemory memory(cuda.value());
  REQUIRE(memory.reserve(0).ok());
  CHECK(memory.get() != nullptr);
  REQUIRE(memory.reserve(1000).ok());
  void* const large = memory.get();
  REQUIRE(memory.reserve(10).ok());
  CHECK(memory.get() == large);
  const Status huge = memory.reserve(static_cast<std::size_t>(1) << 31);
  CHECK(huge.code() == Code::kResourceExhausted);
  CHECK(huge.message().find("bytes of GPU memory: out of memory") != std::string::npos);
  CHECK(memory.reserve(16).ok());  // Usable again.
}

}  // namespace
