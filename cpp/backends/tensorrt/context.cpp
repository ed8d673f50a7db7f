#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tensorrt/backend.hpp"

namespace edgebuild::tensorrt {
namespace {

/// Bits of an element as TensorRT holds it; 0 for those that it has not.
unsigned dtype_bits(std::uint32_t dtype) noexcept {
  switch (dtype) {
    case EB_INT4:
    case EB_FLOAT4_E2M1:
      return 4;
    case EB_BOOL:
    case EB_INT8:
    case EB_UINT8:
    case EB_FLOAT8_E4M3FN:
    case EB_FLOAT8_E8M0:
      return 8;
    case EB_FLOAT16:
    case EB_BFLOAT16:
      return 16;
    case EB_FLOAT32:
    case EB_INT32:
      return 32;
    case EB_INT64:
      return 64;
    default:
      return 0;
  }
}

/// Nothing if a size is negative or the product is too large.
std::optional<std::uint64_t> byte_size(std::uint32_t dtype, const std::vector<std::int64_t>& shape) noexcept {
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, static_cast<std::uint64_t>(size), &count)) return std::nullopt;
  }
  std::uint64_t bits = 0;
  if (__builtin_mul_overflow(count, std::uint64_t{dtype_bits(dtype)}, &bits) || bits > UINT64_MAX - 7) {
    return std::nullopt;
  }
  return (bits + 7) / 8;
}

void describe(std::uint32_t dtype, const std::vector<std::int64_t>& shape, std::uint64_t bytes, eb_value* value) {
  value->kind = EB_KIND_TENSOR;
  value->dtype = dtype;
  value->rank = static_cast<std::uint32_t>(shape.size());
  for (std::size_t i = 0; i < shape.size(); ++i) value->shape[i] = shape[i];
  value->byte_size = bytes;
}

void release_memory(eb_value* value) {
  const auto* const host = static_cast<const eb_host_api*>(value->owner);
  host->deallocate(host->user, value->data);
  value->data = nullptr;
  value->release = nullptr;
  value->owner = nullptr;
}

bool on_device(const eb_value& value) noexcept { return value.device_type == EB_DEVICE_CUDA; }

/// What TensorRT wants of every address; CUDA's allocations have it, parts of them may not.
constexpr std::uintptr_t kAlignment = 256;

bool is_aligned(const void* address) noexcept {
  return address != nullptr && reinterpret_cast<std::uintptr_t>(address) % kAlignment == 0;
}

/// An aligned place for `size` bytes in `storage`, which grows.
void* aligned_place(std::vector<std::byte>& storage, std::size_t size) {
  storage.resize(std::max(storage.size(), size + kAlignment));
  const auto begin = reinterpret_cast<std::uintptr_t>(storage.data());
  return storage.data() + (kAlignment - begin % kAlignment) % kAlignment;
}

/// Whether the engine uses the caller's buffer itself.
bool is_direct(const Port& port, const eb_value& value) noexcept {
  return value.kind == EB_KIND_TENSOR && on_device(value) && !port.tensor->on_host && is_aligned(value.data);
}

}  // namespace

Status Context::create(Model& model, std::unique_ptr<Context>* out) {
  std::unique_ptr<Context> context(new Context(model));
  const std::shared_ptr<const Cuda>& cuda = model.backend().cuda();
  EDGEBUILD_RETURN_IF_ERROR(cuda->use(model.recipe().device));
  EDGEBUILD_RETURN_IF_ERROR(cuda->make_stream(&context->stream_));
  edgebuild::Result<std::unique_ptr<Execution>> execution = model.plan().make_execution();
  if (!execution.ok()) return execution.status();
  context->execution_ = std::move(execution).value();
  for (std::size_t i = 0; i < model.inputs().size(); ++i) {
    context->input_memory_.push_back(std::make_unique<DeviceMemory>(cuda));
  }
  for (std::size_t i = 0; i < model.outputs().size(); ++i) {
    context->output_memory_.push_back(std::make_unique<DeviceMemory>(cuda));
    context->grown_.push_back(std::make_unique<Grown>(*context->output_memory_.back()));
  }
  context->host_inputs_.resize(model.inputs().size());
  context->host_outputs_.resize(model.outputs().size());
  context->results_.resize(model.outputs().size());
  const std::vector<TensorInfo>& tensors = model.plan().tensors();
  if (model.recipe().cuda_graph &&
      std::none_of(tensors.begin(), tensors.end(), [](const TensorInfo& tensor) { return tensor.on_host; })) {
    context->recorded_.emplace(cuda);
  }
  *out = std::move(context);
  return {};
}

Context::~Context() {
  recorded_.reset();  // It names memory of the execution.
  execution_.reset();
  if (stream_ != nullptr) model_.backend().cuda()->destroy_stream(stream_);
}

Status Context::run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                    const eb_run_options* options) {
  if (input_count != model_.inputs().size() || output_count != model_.outputs().size()) {
    return Status(Code::kInvalidArgument, "another number of values than the model has");
  }
  const std::shared_ptr<const Cuda>& cuda = model_.backend().cuda();
  EDGEBUILD_RETURN_IF_ERROR(cuda->use(model_.recipe().device));  // It belongs to the thread, which may be any.
  void* const given = options != nullptr ? options->device_stream : nullptr;
  void* const stream = given != nullptr ? given : stream_;
  EDGEBUILD_RETURN_IF_ERROR(bind_inputs(inputs, stream));
  EDGEBUILD_RETURN_IF_ERROR(bind_outputs(outputs));
  const Status queued = enqueue(stream);
  const Status done = cuda->wait(stream);  // Also after a failure: what was queued may still use the caller's buffers.
  EDGEBUILD_RETURN_IF_ERROR(queued);
  EDGEBUILD_RETURN_IF_ERROR(done);
  return fetch(outputs, stream);
}

Status Context::enqueue(void* stream) {
  const bool known = std::all_of(results_.begin(), results_.end(), [](const Result& result) { return result.known; });
  return recorded_ && known ? recorded_->enqueue(*execution_, stream) : execution_->enqueue(stream);
}

Status Context::bind_inputs(const eb_value* inputs, void* stream) {
  const Cuda& cuda = *model_.backend().cuda();
  if (recorded_) recorded_->begin();
  for (std::size_t i = 0; i < model_.inputs().size(); ++i) {
    const Port& port = model_.inputs()[i];
    if (!port.tensor) continue;
    const eb_value& input = inputs[i];
    if (input.kind != EB_KIND_TENSOR || dtype_bits(input.dtype) == 0) {
      return Status(Code::kInvalidArgument, "input '" + port.name + "': the tensorrt backend takes tensors of numbers");
    }
    const auto size = static_cast<std::size_t>(input.byte_size);
    const void* address = input.data;
    if (port.tensor->on_host) {
      if (on_device(input)) {
        return Status(Code::kInvalidArgument, "input '" + port.name + "' is a shape: it has to lie in host memory");
      }
      void* const place = aligned_place(host_inputs_[i], size);
      if (size != 0) std::memcpy(place, input.data, size);
      address = place;
    } else if (!is_direct(port, input)) {
      DeviceMemory& memory = *input_memory_[i];
      EDGEBUILD_RETURN_IF_ERROR(memory.reserve(size));
      EDGEBUILD_RETURN_IF_ERROR(cuda.copy(memory.get(), input.data, size, stream));
      address = memory.get();
    }
    EDGEBUILD_RETURN_IF_ERROR(execution_->bind_input(*port.tensor, {input.shape, input.rank}, address)
                                  .with_context("input '" + port.name + "'"));
    if (recorded_) recorded_->add(address, {input.shape, input.rank});
  }
  return {};
}

Status Context::bind_outputs(eb_value* outputs) {
  for (std::size_t i = 0; i < results_.size(); ++i) {
    const Port& port = model_.outputs()[i];
    Result& result = results_[i];
    EDGEBUILD_RETURN_IF_ERROR(
        execution_->output_shape(*port.tensor, &result.shape).with_context("output '" + port.name + "'"));
    const std::optional<std::uint64_t> bytes = byte_size(port.tensor->dtype, result.shape);
    result.known = bytes.has_value();
    result.bytes = bytes.value_or(0);
  }
  EDGEBUILD_RETURN_IF_ERROR(check_capacity(outputs, /*all=*/false));
  for (std::size_t i = 0; i < results_.size(); ++i) {
    const Port& port = model_.outputs()[i];
    Result& result = results_[i];
    if (!result.known) {
      EDGEBUILD_RETURN_IF_ERROR(execution_->bind_output(*port.tensor, *grown_[i]));
      continue;
    }
    if (is_direct(port, outputs[i])) {
      result.address = outputs[i].data;
    } else if (port.tensor->on_host) {
      result.address = aligned_place(host_outputs_[i], static_cast<std::size_t>(result.bytes));
    } else {
      EDGEBUILD_RETURN_IF_ERROR(output_memory_[i]->reserve(static_cast<std::size_t>(result.bytes)));
      result.address = output_memory_[i]->get();
    }
    EDGEBUILD_RETURN_IF_ERROR(execution_->bind_output(*port.tensor, result.address));
    if (recorded_) recorded_->add(result.address, result.shape);
  }
  return {};
}

Status Context::check_capacity(eb_value* outputs, bool all) const {
  std::string too_small;
  for (std::size_t i = 0; i < results_.size(); ++i) {
    const Result& result = results_[i];
    if (outputs[i].kind != EB_KIND_TENSOR || (!all && !result.known) || result.bytes <= outputs[i].byte_capacity) {
      continue;
    }
    const Port& port = model_.outputs()[i];
    too_small += (too_small.empty() ? "output '" : "; output '") + port.name + "' needs " +
                 std::to_string(result.bytes) + " bytes, the bound buffer has " +
                 std::to_string(outputs[i].byte_capacity);
    describe(port.tensor->dtype, result.shape, result.bytes, &outputs[i]);
  }
  return too_small.empty() ? Status() : Status(Code::kBufferTooSmall, too_small);
}

Status Context::fetch(eb_value* outputs, void* stream) {
  const eb_host_api& host = model_.backend().host();
  const Cuda& cuda = *model_.backend().cuda();
  for (std::size_t i = 0; i < results_.size(); ++i) {
    Result& result = results_[i];
    if (result.known) continue;
    const TensorInfo& tensor = *model_.outputs()[i].tensor;
    result.shape = execution_->produced_shape(tensor);
    const std::optional<std::uint64_t> bytes = byte_size(tensor.dtype, result.shape);
    if (!bytes) return Status(Code::kInternal, "TensorRT gave output '" + tensor.name + "' no shape");
    result.bytes = *bytes;
    result.address = output_memory_[i]->get();
  }
  EDGEBUILD_RETURN_IF_ERROR(check_capacity(outputs, /*all=*/true));
  std::vector<eb_value> made(results_.size());
  const auto copy_all = [&]() -> Status {
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const Result& result = results_[i];
      const auto size = static_cast<std::size_t>(result.bytes);
      made[i] = outputs[i];
      if (outputs[i].kind == EB_KIND_NONE) {
        made[i] = eb_value{};
        made[i].struct_size = sizeof(eb_value);
        made[i].device_type = EB_DEVICE_CPU;
        if (size != 0) {
          made[i].data = host.allocate(host.user, size, 64);
          if (made[i].data == nullptr) return Status(Code::kResourceExhausted, "no memory for an output");
          made[i].owner = const_cast<eb_host_api*>(&host);
          made[i].release = release_memory;
        }
      }
      if (size != 0 && made[i].data != result.address) {
        EDGEBUILD_RETURN_IF_ERROR(cuda.copy(made[i].data, result.address, size, stream));
      }
      describe(model_.outputs()[i].tensor->dtype, result.shape, result.bytes, &made[i]);
    }
    return cuda.wait(stream);
  };
  const Status copied = copy_all();
  if (!copied.ok()) {
    static_cast<void>(cuda.wait(stream));  // Before the memory goes that a copy may still write to.
    for (std::size_t i = 0; i < made.size(); ++i) {
      if (outputs[i].kind == EB_KIND_NONE && made[i].release != nullptr) made[i].release(&made[i]);
    }
    return copied;
  }
  for (std::size_t i = 0; i < made.size(); ++i) outputs[i] = made[i];
  return {};
}

}  // namespace edgebuild::tensorrt
