// The folder that tells the doubles how to behave, for the time of one test.

#ifndef EDGEBUILD_TESTS_TENSORRT_DOUBLE_HPP_
#define EDGEBUILD_TESTS_TENSORRT_DOUBLE_HPP_

#include <cstdlib>
#include <filesystem>
#include <string>

#include "runner_bundle.hpp"
#include "support.hpp"

namespace edgebuild::testing {

class Double {
 public:
  Double() { ::setenv("EDGEBUILD_TENSORRT_DOUBLE", folder_.path().c_str(), 1); }
  void set(const std::string& name, const std::string& text) const { write_file(folder_.path() / name, text); }
  void unset(const std::string& name) const { std::filesystem::remove(folder_.path() / name); }
  [[nodiscard]] std::string get(const std::string& name) const {
    return std::filesystem::exists(folder_.path() / name) ? read_file(folder_.path() / name) : std::string();
  }
  [[nodiscard]] std::size_t builds() const { return get("builds").size(); }
  /// A state folder that belongs to this test.
  [[nodiscard]] std::string state() const { return (folder_.path() / "state").string(); }

 private:
  TemporaryFolder folder_;
};

/// A bundle with a TensorRT variant "trt" whose model is `model`, and behind it, if `fallback`, the reference backend's
/// "cpu". Input x (n, 3), output y; one golden, of y = 2x.
inline std::string double_bundle(RunnerBundle& bundle, bool fallback = true) {
  bundle.input("x", tensor_type("float32", {"n", 3})).output("y", tensor_type("float32", {"n", 3}));
  bundle.symbol("n", 1, 16);
  const float in[] = {1, -2, 3};
  const float out[] = {2, -4, 6};
  bundle.data_file("cpu.json", R"({"format": "edgebuild-reference", "version": 1,
    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 3]}],
    "nodes": [{"op": "add", "inputs": ["x", "x"], "output": "y"}], "outputs": ["y"]})");
  bundle.data_file("in.bin", {reinterpret_cast<const char*>(in), sizeof(in)});
  bundle.data_file("out.bin", {reinterpret_cast<const char*>(out), sizeof(out)});
  const auto golden = [](const char* file) {
    return Json{{"kind", "tensor"}, {"dtype", "float32"}, {"shape", {1, 3}}, {"file", file}};
  };
  bundle.manifest()["goldens"] = {
      {{"inputs", {{"x", golden("model/in.bin")}}}, {"outputs", {{"y", golden("model/out.bin")}}}}};
  Json& trt = bundle.variant();
  trt["name"] = "trt";
  trt["data"] = Json::array();
  trt["plugin"] = bundle.library(EDGEBUILD_TEST_TENSORRT_PLUGIN);
  trt["options"] = {{"workspace_mib", "64"}, {"profile.x", "1,3:4,3:8,3"}};
  Json& cpu = bundle.add_variant("cpu");
  cpu["backend"] = "reference";
  cpu["model"] = "model/cpu.json";
  cpu["data"] = {"model/in.bin",
                 "model/out.bin"};  // Also where a test takes the golden out, every file is referred to.
  cpu["plugin"] = nullptr;
  cpu["options"] = Json::object();
  if (!fallback) cpu["requires"]["cpu_features"] = {"antigravity"};
  return bundle.write();
}

}  // namespace edgebuild::testing

#endif  // EDGEBUILD_TESTS_TENSORRT_DOUBLE_HPP_
