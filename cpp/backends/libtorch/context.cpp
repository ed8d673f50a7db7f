#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <chrono>
#include <cstring>

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {
namespace {

/// LibTorch keeps its number of threads for each calling thread; a caller who uses LibTorch beside this keeps theirs.
class ThreadScope {
 public:
  explicit ThreadScope(int wanted) : before_(wanted != 0 ? at::get_num_threads() : 0) {
    changed_ = wanted != before_;
    if (changed_) at::set_num_threads(wanted);
  }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;
  ~ThreadScope() {
    if (changed_) at::set_num_threads(before_);
  }

 private:
  int before_;
  bool changed_ = false;
};

/// What LibTorch warns of goes to the host's log, whichever way the process has for it otherwise.
class LogWarnings : public c10::WarningHandler {
 public:
  explicit LogWarnings(const eb_host_api& host) noexcept : host_(host) {}
  void process(const c10::Warning& warning) override { plugin::log(host_, EB_LOG_WARNING, warning.msg()); }

 private:
  const eb_host_api& host_;
};

bool same_view(const eb_value& a, const eb_value& b) noexcept {
  return a.kind == EB_KIND_TENSOR && b.kind == EB_KIND_TENSOR && a.data == b.data && a.dtype == b.dtype &&
         a.device_type == b.device_type && a.rank == b.rank &&
         std::memcmp(a.shape, b.shape, a.rank * sizeof(a.shape[0])) == 0;
}

/// What an allocated output keeps alive.
void release_tensor(eb_value* value) {
  delete static_cast<at::Tensor*>(value->owner);
  value->owner = nullptr;
  value->release = nullptr;
}

/// Whether somebody beside the holder of `tensor` may see its bytes: the module, the caller's input, another output.
bool is_shared(const at::Tensor& tensor) {
  // A compiled model's weights are memory of its library, which a storage that can't grow stands for.
  return tensor.use_count() > 1 || tensor.storage().use_count() > 1 || !tensor.storage().resizable();
}

}  // namespace

Context::Context(Model& model)
    : model_(model),
      module_(model.keeps_state() ? model.module()->deepcopy() : model.module()),
      views_(model.inputs().size()),
      chosen_(model.outputs().size()),
      scratch_(model.outputs().size()) {
  stack_.reserve(model.arguments().size() + 1);
}

eb_status* Context::run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                        const eb_run_options* options) {
  if (input_count != model_.inputs().size() || output_count != model_.outputs().size()) {
    return plugin::make_error(host(), EB_INVALID_ARGUMENT, "another number of values than the model has");
  }
  if (options != nullptr && options->deadline_ns != 0) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    if (std::chrono::nanoseconds(options->deadline_ns) <= now) {
      return plugin::make_error(host(), EB_DEADLINE_EXCEEDED, "the deadline had passed before the run began");
    }
  }
  LogWarnings handler(host());
  const c10::WarningUtils::WarningHandlerGuard warnings(&handler);
  const c10::InferenceMode inference;
  const ThreadScope threads(model_.threads());
  results_.clear();
  eb_status* status = fill_stack(inputs);
  if (status == nullptr) {
    status = model_.compiled() != nullptr ? run_compiled() : run_module();
  }
  stack_.clear();
  if (status == nullptr) status = give_outputs(outputs);
  results_.clear();
  for (at::Tensor& tensor : chosen_) tensor.reset();
  return status;
}

eb_status* Context::run_module() {
  model_.forward().run(stack_);
  const c10::IValue result = std::move(stack_.back());
  stack_.clear();
  return flatten(host(), result, &results_);
}

eb_status* Context::run_compiled() {
  std::vector<at::Tensor> tensors;
  tensors.reserve(stack_.size());
  for (std::size_t i = 1; i < stack_.size(); ++i) tensors.push_back(std::move(stack_[i]).toTensor());
  results_ = model_.compiled()->run(tensors);
  return nullptr;
}

eb_status* Context::fill_stack(const eb_value* inputs) {
  stack_.clear();
  stack_.push_back(module_ ? c10::IValue(module_->_ivalue()) : c10::IValue());
  for (const Argument& argument : model_.arguments()) stack_.push_back(argument.absent);
  for (std::size_t i = 0; i < views_.size(); ++i) {
    if (!model_.inputs()[i]) continue;
    const Argument& argument = model_.arguments()[*model_.inputs()[i]];
    c10::IValue& slot = stack_[*model_.inputs()[i] + 1];
    const eb_value& value = inputs[i];
    const std::string& name = model_.input_names()[i];
    if (value.kind == EB_KIND_NONE) {
      if (argument.may_be_absent) continue;
      return plugin::make_error(host(), EB_INVALID_ARGUMENT, "input '" + name + "' can't be absent");
    }
    if ((value.kind == EB_KIND_SEQUENCE) != argument.sequence) {
      return plugin::make_error(host(), EB_INVALID_ARGUMENT,
                                "input '" + name + "': expected " +
                                    (argument.sequence ? "a sequence of tensors" : "a tensor, got a sequence"));
    }
    if (argument.sequence) {
      c10::List<at::Tensor> list;
      for (std::uint64_t item = 0; item < value.item_count; ++item) {
        at::Tensor tensor;
        EDGEBUILD_PLUGIN_TRY(view_tensor(host(), name, value.items[item], &tensor));
        list.push_back(argument.written ? tensor.clone() : tensor);
      }
      slot = std::move(list);
      continue;
    }
    View& view = views_[i];
    if (!same_view(view.seen, value)) {
      view.seen = {};
      EDGEBUILD_PLUGIN_TRY(view_tensor(host(), name, value, &view.tensor));
      view.seen = value;
    }
    slot = argument.written ? view.tensor.clone() : view.tensor;
  }
  return nullptr;
}

eb_status* Context::prepare_output(std::size_t index, const eb_value& wanted, std::string* too_small) {
  const std::string& name = model_.output_names()[index];
  const std::size_t place = model_.outputs()[index];
  if (place >= results_.size()) {
    return plugin::make_error(host(), EB_INVALID_ARGUMENT,
                              "the model returned " + std::to_string(results_.size()) +
                                  " tensors for these inputs, and the signature needs number " + std::to_string(place));
  }
  at::Tensor& tensor = chosen_[index];
  tensor = results_[place];
  if (tensor.defined() && tensor.layout() == c10::kMkldnn) tensor = tensor.to_dense();
  eb_value& result = scratch_[index];
  EDGEBUILD_PLUGIN_TRY(describe_tensor(host(), name, tensor, &result));
  if (tensor.is_conj()) tensor = tensor.resolve_conj();
  if (tensor.is_neg()) tensor = tensor.resolve_neg();
  if (wanted.kind != EB_KIND_NONE && result.byte_size > wanted.byte_capacity) {
    if (!too_small->empty()) *too_small += "; ";
    *too_small += "output '" + name + "' needs " + std::to_string(result.byte_size) + " bytes, the bound buffer has " +
                  std::to_string(wanted.byte_capacity);
  }
  return nullptr;
}

eb_status* Context::give_outputs(eb_value* outputs) {
  // The caller's fields and buffers change only when nothing can fail any more.
  std::string too_small;
  for (std::size_t i = 0; i < scratch_.size(); ++i) {
    scratch_[i] = outputs[i];
    EDGEBUILD_PLUGIN_TRY(prepare_output(i, outputs[i], &too_small));
  }
  if (!too_small.empty()) {
    for (std::size_t i = 0; i < scratch_.size(); ++i) {
      const bool bound = outputs[i].kind != EB_KIND_NONE;
      if (bound && scratch_[i].byte_size > outputs[i].byte_capacity) outputs[i] = scratch_[i];
    }
    return plugin::make_error(host(), EB_BUFFER_TOO_SMALL, too_small);
  }
  results_.clear();  // So that a tensor that nobody else holds is seen to be.
  std::vector<std::unique_ptr<at::Tensor>> owners(scratch_.size());
  for (std::size_t i = 0; i < scratch_.size(); ++i) {
    if (outputs[i].kind != EB_KIND_NONE) continue;
    at::Tensor& tensor = chosen_[i];
    tensor = tensor.contiguous();
    if (is_shared(tensor)) tensor = tensor.clone(at::MemoryFormat::Contiguous);
    owners[i] = std::make_unique<at::Tensor>(tensor);
  }
  for (std::size_t i = 0; i < scratch_.size(); ++i) {
    eb_value& result = scratch_[i];
    const at::Tensor& tensor = chosen_[i];
    if (outputs[i].kind == EB_KIND_NONE) {
      result.struct_size = sizeof(eb_value);
      result.data = result.byte_size != 0 ? tensor.data_ptr() : nullptr;
      result.owner = owners[i].release();
      result.release = release_tensor;
    } else if (result.byte_size != 0 && tensor.is_contiguous()) {
      std::memmove(result.data, tensor.const_data_ptr(), static_cast<std::size_t>(result.byte_size));
    } else if (result.byte_size != 0) {
      at::from_blob(result.data, tensor.sizes(), tensor.options()).copy_(tensor);
    }
    outputs[i] = result;
  }
  return nullptr;
}

}  // namespace edgebuild::libtorch
