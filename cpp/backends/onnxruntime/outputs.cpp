// After a run: what the engine allocated goes to the caller, by copy into a bound buffer or as it is.

#include <cstring>

#include "onnxruntime/context.hpp"

namespace edgebuild::onnxruntime {
namespace {

void set_result(const eb_value& from, eb_value* to) noexcept {
  to->kind = EB_KIND_TENSOR;
  to->dtype = from.dtype;
  to->rank = from.rank;
  std::memcpy(to->shape, from.shape, sizeof(to->shape));
  to->byte_size = from.byte_size;
}

/// The engine's array of output values; releases what is left in it.
class OutputValues {
 public:
  explicit OutputValues(const Backend& backend) noexcept : backend_(backend) {}
  OutputValues(const OutputValues&) = delete;
  OutputValues& operator=(const OutputValues&) = delete;
  ~OutputValues() {
    for (std::size_t i = 0; i < count_; ++i) {
      if (values_[i] != nullptr) backend_.api().ReleaseValue(values_[i]);
    }
    if (values_ != nullptr) backend_.discard(backend_.api().AllocatorFree(backend_.allocator(), values_));
  }
  OrtStatus* get(const OrtIoBinding* binding) {
    return backend_.api().GetBoundOutputValues(binding, backend_.allocator(), &values_, &count_);
  }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  [[nodiscard]] OrtValue* at(std::size_t index) const noexcept { return values_[index]; }
  [[nodiscard]] OrtValue* take(std::size_t index) noexcept { return std::exchange(values_[index], nullptr); }

 private:
  const Backend& backend_;
  OrtValue** values_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace

eb_status* Context::collect(Bindings& bindings, eb_value* outputs) {
  bool allocated = false;
  for (const OutputSlot& output : bindings.outputs) allocated = allocated || output.to_device;
  if (!allocated) {
    for (std::size_t i = 0; i < bindings.outputs.size(); ++i) set_result(bindings.outputs[i].expected, &outputs[i]);
    return nullptr;
  }
  eb_status* status = fetch(bindings, outputs);
  // The binding still holds what the engine allocated: let go of it, or the next run would write into what the caller
  // has by then.
  for (std::size_t i = 0; i < bindings.outputs.size(); ++i) {
    if (!bindings.outputs[i].to_device) continue;
    bindings.outputs[i].to_device = false;
    eb_status* const rebound = bind_to_device(bindings, i);
    if (status == nullptr) {
      status = rebound;
    } else if (rebound != nullptr) {
      backend().host().status_destroy(backend().host().user, rebound);
    }
  }
  return status;
}

eb_status* Context::fetch(Bindings& bindings, eb_value* outputs) {
  OutputValues values(backend());
  EDGEBUILD_PLUGIN_TRY(backend().take(values.get(bindings.binding.get()), "outputs"));
  if (values.count() != bindings.outputs.size()) {
    return plugin::make_error(backend().host(), EB_INTERNAL, "ONNX Runtime gave another number of outputs");
  }
  // The caller's fields change only when nothing can fail any more.
  std::string too_small;
  eb_status* status = nullptr;
  std::size_t done = 0;
  for (; done < scratch_.size() && status == nullptr; ++done) {
    OutputSlot& output = bindings.outputs[done];
    scratch_[done] = outputs[done];
    if (!output.to_device) {
      set_result(output.expected, &scratch_[done]);
    } else if (outputs[done].kind == EB_KIND_NONE) {
      status = export_value(backend(), model_.outputs()[done], values.take(done), &scratch_[done]);
    } else {
      status = copy_out(done, values.at(done), output, &scratch_[done], &too_small);
    }
  }
  if (status == nullptr && too_small.empty()) {
    for (std::size_t i = 0; i < scratch_.size(); ++i) outputs[i] = scratch_[i];
    return nullptr;
  }
  for (std::size_t i = 0; i < done; ++i) {
    if (outputs[i].kind == EB_KIND_NONE && scratch_[i].release != nullptr) scratch_[i].release(&scratch_[i]);
    if (status == nullptr && outputs[i].kind == EB_KIND_TENSOR && scratch_[i].byte_size > outputs[i].byte_capacity) {
      set_result(scratch_[i], &outputs[i]);
    }
  }
  if (status != nullptr) return status;
  return plugin::make_error(backend().host(), EB_BUFFER_TOO_SMALL, too_small);
}

eb_status* Context::copy_out(std::size_t index, OrtValue* value, OutputSlot& slot, eb_value* output,
                             std::string* too_small) {
  const OrtApi& api = backend().api();
  const Port& port = model_.outputs()[index];
  int has_value = 1;
  EDGEBUILD_PLUGIN_TRY(backend().take(api.HasValue(value, &has_value), port.name));
  ONNXType type = ONNX_TYPE_UNKNOWN;
  if (has_value != 0) EDGEBUILD_PLUGIN_TRY(backend().take(api.GetValueType(value, &type), port.name));
  eb_value result{};
  if (type == ONNX_TYPE_TENSOR) EDGEBUILD_PLUGIN_TRY(view_tensor(backend(), port, value, &result));
  if (type != ONNX_TYPE_TENSOR || result.dtype == EB_STRING) {
    return plugin::make_error(backend().host(), EB_INVALID_ARGUMENT,
                              "output '" + port.name + "': only a tensor of numbers can be bound to a buffer");
  }
  // `expected_valid` holds as long as the inputs' shapes stay.
  if (slot.expected_valid && !same_shape(slot.expected, result)) model_.set_volatile(index);
  slot.expected = result;
  slot.expected_valid = true;
  slot.doubtful = false;
  set_result(result, output);
  if (result.byte_size > output->byte_capacity) {
    if (!too_small->empty()) *too_small += "; ";
    *too_small += "output '" + port.name + "' needs " + std::to_string(result.byte_size) +
                  " bytes, the bound buffer has " + std::to_string(output->byte_capacity);
    return nullptr;
  }
  if (result.byte_size != 0) std::memcpy(output->data, result.data, static_cast<std::size_t>(result.byte_size));
  return nullptr;
}

}  // namespace edgebuild::onnxruntime
