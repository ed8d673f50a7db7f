#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {
namespace {

constexpr int kMostThreads = 1024;

/// Reads the archive from the bytes that were hashed.
class MemoryReader : public caffe2::serialize::ReadAdapterInterface {
 public:
  explicit MemoryReader(const eb_file& file) noexcept
      : data_(static_cast<const char*>(file.data)), size_(static_cast<std::size_t>(file.size)) {}
  std::size_t size() const override { return size_; }
  std::size_t read(std::uint64_t position, void* buffer, std::size_t count, const char* /*what*/) const override {
    if (position >= size_) return 0;
    const std::size_t given = std::min(count, size_ - static_cast<std::size_t>(position));
    std::memcpy(buffer, data_ + position, given);
    return given;
  }

 private:
  const char* data_;
  std::size_t size_;
};

template <typename Number>
bool parse(std::string_view text, Number most, Number* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size() && *out <= most;
}

/// Whether `forward` may leave something behind in the module: then it may also keep what it was given.
bool keeps_state(const torch::jit::Block& block, const torch::jit::AliasDb& aliases) {
  for (const torch::jit::Node* node : block.nodes()) {
    if (node->kind() == c10::prim::SetAttr) return true;
    if (node->kind() == c10::prim::GetAttr && aliases.hasWriters(node->output())) return true;
    for (const torch::jit::Block* inner : node->blocks()) {
      if (keeps_state(*inner, aliases)) return true;
    }
  }
  return false;
}

}  // namespace

eb_status* Model::load(Backend& backend, const eb_model_config& config, Model** out) {
  if (config.file_count != 1) {
    return plugin::make_error(backend.host(), EB_USAGE,
                              "the libtorch backend takes one file, a TorchScript archive or a compiled model");
  }
  std::unique_ptr<Model> model(new Model(backend));
  EDGEBUILD_PLUGIN_TRY(model->read_options(config));
  const std::string what = std::string("LibTorch ") + backend.version() + " can't load " + config.files[0].path;
  const bool compiled = Compiled::is_one(config.files[0]);
  // What the engine refuses here has passed its hash, so the bytes are the builder's: this engine can't run them.
  EDGEBUILD_PLUGIN_TRY(guard(
      backend.host(), what,
      [&] { return compiled ? model->load_compiled(config) : model->load_module(config.files[0]); }, EB_UNSUPPORTED));
  if (!compiled) {
    const auto forward = model->module_->find_method("forward");
    if (!forward) {
      return plugin::make_error(backend.host(), EB_UNSUPPORTED,
                                std::string(config.files[0].path) + ": the TorchScript module has no method forward");
    }
    model->forward_ = &forward->function();
    EDGEBUILD_PLUGIN_TRY(model->read_arguments());
  }
  EDGEBUILD_PLUGIN_TRY(model->match_inputs(config));
  EDGEBUILD_PLUGIN_TRY(model->match_outputs(config));
  *out = model.release();
  return nullptr;
}

eb_status* Model::load_module(const eb_file& file) {
  torch::jit::ExtraFilesMap no_extra_files;
  module_ = torch::jit::load(std::make_shared<MemoryReader>(file), c10::Device(c10::kCPU), no_extra_files,
                             /*load_debug_files=*/false);
  if (module_->hasattr("training")) {
    module_->eval();
  } else if (optimize_) {  // A frozen module.
    module_ = torch::jit::optimize_for_inference(*module_);
  }
  return nullptr;
}

eb_status* Model::load_compiled(const eb_model_config& config) {
  // It takes every input of the signature, in its order, whether it uses it or not.
  for (std::size_t i = 0; i < config.input_count; ++i) {
    if (config.input_names[i] == nullptr) {
      return plugin::make_error(host(), EB_CORRUPT,
                                "a compiled model takes every input, and the manifest leaves one out");
    }
    Argument argument;
    argument.name = config.input_names[i];
    arguments_.push_back(std::move(argument));
  }
  return Compiled::load(host(), config.files[0], &compiled_);
}

eb_status* Model::read_options(const eb_model_config& config) {
  const auto wrong = [&](const eb_option& option, const std::string& expected) {
    return plugin::make_error(
        host(), EB_USAGE,
        std::string("option ") + option.name + ": expected " + expected + ", got '" + option.value + "'");
  };
  for (std::size_t i = 0; i < config.option_count; ++i) {
    const eb_option& option = config.options[i];
    const std::string_view name = option.name;
    const std::string_view value = option.value;
    if (name == "intra_op_threads") {
      if (!parse(value, kMostThreads, &threads_) || threads_ < 0) {
        return wrong(option, "a number from 0 (the engine's choice) to " + std::to_string(kMostThreads));
      }
    } else if (name == "graph_optimization") {
      if (value != "basic" && value != "all") return wrong(option, "one of basic, all");
      optimize_ = value == "all";
    } else {
      return plugin::make_error(host(), EB_USAGE,
                                "the libtorch backend has no option '" + std::string(name) +
                                    "'; it knows intra_op_threads, graph_optimization");
    }
  }
  return nullptr;
}

eb_status* Model::read_arguments() {
  const auto graph = module_->get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  const torch::jit::AliasDb aliases(graph);
  keeps_state_ = edgebuild::libtorch::keeps_state(*graph->block(), aliases);
  const auto& schema = forward_->getSchema().arguments();
  for (std::size_t i = 1; i < schema.size(); ++i) {  // The first is the module itself.
    Argument argument;
    argument.name = schema[i].name();
    c10::TypePtr type = schema[i].type();
    if (const auto optional = type->cast<c10::OptionalType>()) {
      argument.optional = true;
      type = optional->getElementType();
    }
    argument.may_be_absent = argument.optional || schema[i].default_value().has_value();
    if (schema[i].default_value()) argument.absent = *schema[i].default_value();
    argument.sequence = type->isSubtypeOf(*c10::ListType::ofTensors());
    argument.written = keeps_state_ || aliases.hasWriters(graph->inputs()[i]);
    if (!argument.sequence && !type->isSubtypeOf(*c10::TensorType::get()) && !argument.may_be_absent) {
      return plugin::make_error(host(), EB_UNSUPPORTED,
                                "the model's forward takes " + argument.name + ", a value of type " +
                                    type->annotation_str() + "; edgebuild gives tensors and lists of tensors");
    }
    arguments_.push_back(std::move(argument));
  }
  return nullptr;
}

eb_status* Model::match_inputs(const eb_model_config& config) {
  std::vector<bool> given(arguments_.size());
  for (std::size_t i = 0; i < config.input_count; ++i) {
    const char* const name = config.input_names[i];
    input_names_.emplace_back(name != nullptr ? name : "");
    if (name == nullptr) {
      inputs_.emplace_back();
      continue;
    }
    const auto found = std::find_if(arguments_.begin(), arguments_.end(),
                                    [&](const Argument& argument) { return argument.name == name; });
    if (found == arguments_.end()) {
      std::vector<std::string> known;
      for (const Argument& argument : arguments_) known.push_back(argument.name);
      return plugin::make_error(host(), EB_CORRUPT,
                                std::string("the manifest names the input '") + name +
                                    "', but the model's forward takes only: " + plugin::join(known));
    }
    const auto index = static_cast<std::size_t>(found - arguments_.begin());
    inputs_.emplace_back(index);
    given[index] = true;
  }
  for (std::size_t i = 0; i < arguments_.size(); ++i) {
    if (given[i] || arguments_[i].may_be_absent) continue;
    return plugin::make_error(
        host(), EB_CORRUPT, "the model's forward needs '" + arguments_[i].name + "', which the manifest does not name");
  }
  return nullptr;
}

eb_status* Model::match_outputs(const eb_model_config& config) {
  constexpr std::size_t kMostOutputs = 1 << 20;
  for (std::size_t i = 0; i < config.output_count; ++i) {
    const char* const name = config.output_names[i];
    std::size_t index = 0;
    if (!parse(name, kMostOutputs, &index)) {
      return plugin::make_error(host(), EB_CORRUPT,
                                std::string("the manifest names the output '") + name +
                                    "'; the tensors that TorchScript returns have numbers, from 0");
    }
    outputs_.push_back(index);
    output_names_.emplace_back(name);
  }
  return nullptr;
}

}  // namespace edgebuild::libtorch
