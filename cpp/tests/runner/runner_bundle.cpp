#include "runner_bundle.hpp"

#include <cstdio>
#include <cstdlib>

#include "bundle/sha256.hpp"
#include "runner/requirements.hpp"

namespace edgebuild::testing {

Json tensor_type(const std::string& dtype, const Json& shape) {
  return {{"kind", "tensor"}, {"dtype", dtype}, {"shape", shape}};
}

RunnerBundle::RunnerBundle(const std::string& backend, const std::string& model) {
  manifest_ = sample_manifest({});
  manifest_["target"]["arch"] = runner::process_arch();
  manifest_["signature"] = {{"inputs", Json::array()},
                            {"outputs", Json::array()},
                            {"symbols", Json::object()},
                            {"output_structure", {{"tuple", Json::array()}}}};
  manifest_["goldens"] = Json::array();
  files_["model/model.bin"] = model;
  variants_.push_back({{"name", "first"},
                       {"backend", backend},
                       {"precision", "float32"},
                       {"model", "model/model.bin"},
                       {"data", Json::array()},
                       {"inputs", Json::array()},
                       {"outputs", Json::array()},
                       {"engine", nullptr},
                       {"plugin", nullptr},
                       {"options", Json::object()},
                       {"requires", Json::object()},
                       {"speed", "measured"},
                       {"tolerances", Json::object()},
                       {"numerics", nullptr}});
}

RunnerBundle& RunnerBundle::input(const std::string& name, const Json& type) {
  manifest_["signature"]["inputs"].push_back({{"name", name}, {"type", type}, {"layout", nullptr}});
  for (Json& variant : variants_) variant["inputs"].push_back(name);
  return *this;
}

RunnerBundle& RunnerBundle::output(const std::string& name, const Json& type) {
  Json& outputs = manifest_["signature"]["outputs"];
  manifest_["signature"]["output_structure"]["tuple"].push_back({{"tensor", outputs.size()}});
  outputs.push_back({{"name", name}, {"type", type}, {"layout", nullptr}});
  for (Json& variant : variants_) {
    variant["outputs"].push_back(name);
    variant["tolerances"][name] = {{"atol", 0}, {"rtol", 0}};
  }
  return *this;
}

RunnerBundle& RunnerBundle::symbol(const std::string& name, std::int64_t min, const Json& max) {
  manifest_["signature"]["symbols"][name] = {{"min", min}, {"best", min}, {"max", max}};
  return *this;
}

Json& RunnerBundle::add_variant(const std::string& name) {
  Json copy = variants_[0];
  copy["name"] = name;
  variants_.push_back(copy);
  return variants_.back();
}

std::string RunnerBundle::library(const std::string& source) {
  const std::string path = "lib/" + std::filesystem::path(source).filename().string();
  files_[path] = read_file(source);
  return path;
}

RunnerBundle& RunnerBundle::data_file(const std::string& name, const std::string& bytes) {
  files_["model/" + name] = bytes;
  for (Json& variant : variants_) variant["data"].push_back("model/" + name);
  return *this;
}

std::string RunnerBundle::write() {
  manifest_["variants"] = variants_;
  manifest_["files"] = sample_manifest(files_)["files"];
  const std::filesystem::path root = folder_.path() / ("bundle" + std::to_string(written_++));
  write_directory(root, with_manifest(files_, manifest_.dump()));
  return root.string();
}

Runner load_or_die(const std::string& path, const LoadOptions& options) {
  Result<Runner> runner = Runner::load(path, options);
  if (!runner.ok()) {
    std::fprintf(stderr, "%s\n", runner.status().message().c_str());
    std::abort();
  }
  return std::move(runner).value();
}

Value view(const std::vector<float>& values, const std::vector<std::int64_t>& shape) {
  Result<Value> value = Value::view(EB_FLOAT32, shape, values.data(), values.size() * sizeof(float));
  if (!value.ok()) std::abort();
  return std::move(value).value();
}

std::vector<float> floats(const Value& value) {
  const auto* const data = static_cast<const float*>(value.data());
  return {data, data + value.byte_size() / sizeof(float)};
}

}  // namespace edgebuild::testing
