#include <cstring>
#include <new>
#include <thread>

#include "reference/reference.hpp"

namespace edgebuild::reference {
namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Frees what copy_value allocated; `owner` is the host's table.
void release_copy(eb_value* value) {
  const auto* const host = static_cast<const eb_host_api*>(value->owner);
  for (std::uint64_t i = 0; i < value->item_count; ++i) {
    if (value->items[i].release != nullptr) value->items[i].release(&value->items[i]);
  }
  host->deallocate(host->user, value->items);
  host->deallocate(host->user, value->data);
  value->release = nullptr;
  value->owner = nullptr;
}

void describe_result(const eb_value& from, eb_value* to) noexcept {
  to->kind = EB_KIND_TENSOR;
  to->dtype = from.dtype;
  to->rank = from.rank;
  std::memcpy(to->shape, from.shape, sizeof(to->shape));
  to->byte_size = from.byte_size;
}

/// Strings and their characters in one block: the views first, so that the block is freed by its beginning.
void* copy_strings(const eb_host_api& host, const eb_value& value) {
  const auto* const strings = static_cast<const eb_string*>(value.data);
  const std::size_t count = static_cast<std::size_t>(value.byte_size) / sizeof(eb_string);
  std::size_t total = static_cast<std::size_t>(value.byte_size);
  for (std::size_t i = 0; i < count; ++i) total += static_cast<std::size_t>(strings[i].size);
  void* const block = host.allocate(host.user, total, alignof(eb_string));
  if (block == nullptr) return nullptr;
  auto* const views = static_cast<eb_string*>(block);
  char* characters = static_cast<char*>(block) + value.byte_size;
  for (std::size_t i = 0; i < count; ++i) {
    const auto size = static_cast<std::size_t>(strings[i].size);
    if (size != 0) std::memcpy(characters, strings[i].data, size);
    views[i] = {characters, size};
    characters += size;
  }
  return block;
}

}  // namespace

void Run::begin(std::int64_t deadline_ns) {
  const std::lock_guard lock(mutex_);
  running_ = true;
  deadline_ns_ = deadline_ns;
  cancelled_.store(false, std::memory_order_relaxed);
}

void Run::end() {
  const std::lock_guard lock(mutex_);
  running_ = false;
}

void Run::cancel() {
  const std::lock_guard lock(mutex_);
  if (running_) cancelled_.store(true, std::memory_order_relaxed);
}

Failure Run::interrupted() const {
  if (cancelled_.load(std::memory_order_relaxed)) return {EB_CANCELLED, "the run was cancelled"};
  if (deadline_ns_ != 0 && now_ns() >= deadline_ns_) {
    return {EB_DEADLINE_EXCEEDED, "the run did not end before its deadline"};
  }
  return {};
}

Failure Run::sleep(std::chrono::milliseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  while (std::chrono::steady_clock::now() < end) {
    if (Failure failure = interrupted(); !failure.ok()) return failure;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

Failure Run::make_tensor(std::size_t slot, std::uint32_t dtype, const std::int64_t* shape, std::size_t rank) {
  const std::optional<std::uint64_t> bytes = byte_size(dtype, shape, rank);
  Slot& target = slots[slot];
  const std::uint64_t words = bytes ? (*bytes + 7) / 8 : 0;
  if (!bytes || words > target.storage.max_size()) return {EB_RESOURCE_EXHAUSTED, "a result is larger than memory"};
  target.storage.assign(static_cast<std::size_t>(words), 0);
  eb_value value{};
  value.struct_size = sizeof(eb_value);
  value.kind = EB_KIND_TENSOR;
  value.dtype = dtype;
  value.device_type = EB_DEVICE_CPU;
  value.rank = static_cast<std::uint32_t>(rank);
  std::memcpy(value.shape, shape, rank * sizeof(*shape));
  value.byte_size = *bytes;
  value.data = *bytes != 0 ? target.storage.data() : nullptr;
  target.value = value;
  return {};
}

Failure copy_value(const eb_host_api& host, const eb_value& value, eb_value* out) {
  eb_value copy = value;
  copy.data = nullptr;
  copy.items = nullptr;
  copy.item_count = 0;
  copy.byte_capacity = 0;
  copy.owner = const_cast<eb_host_api*>(&host);
  copy.release = release_copy;
  const Failure no_memory{EB_RESOURCE_EXHAUSTED, "no memory for an output"};
  if (value.kind == EB_KIND_TENSOR && value.byte_size != 0) {
    copy.data = value.dtype == EB_STRING ? copy_strings(host, value)
                                         : host.allocate(host.user, static_cast<std::size_t>(value.byte_size), 64);
    if (copy.data == nullptr) return no_memory;
    if (value.dtype != EB_STRING) std::memcpy(copy.data, value.data, static_cast<std::size_t>(value.byte_size));
  }
  if (value.kind == EB_KIND_SEQUENCE && value.item_count != 0) {
    const std::size_t bytes = static_cast<std::size_t>(value.item_count) * sizeof(eb_value);
    copy.items = static_cast<eb_value*>(host.allocate(host.user, bytes, alignof(eb_value)));
    if (copy.items == nullptr) return no_memory;
    for (; copy.item_count < value.item_count; ++copy.item_count) {
      Failure failure = copy_value(host, value.items[copy.item_count], &copy.items[copy.item_count]);
      if (failure.ok()) continue;
      release_copy(&copy);
      return failure;
    }
  }
  *out = copy;
  return {};
}

Context::Context(Model& model) : model_(model), scratch_(model.graph.outputs.size()) {
  run_.slots.resize(model.graph.slot_count);
  for (const Constant& constant : model.graph.constants) run_.slots[constant.slot].value = constant.value;
  for (const Node& node : model.graph.nodes)
    profile_.push_back({node.name.c_str(), node.op_type.c_str(), "reference", 0, 0});
}

Failure Context::run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                     const eb_run_options* options) {
  const Graph& graph = model_.graph;
  if (input_count != graph.inputs.size() || output_count != graph.outputs.size()) {
    return {EB_INVALID_ARGUMENT, "another number of values than the model has"};
  }
  for (std::size_t i = 0; i < input_count; ++i) {
    if (graph.inputs[i].name.empty()) continue;
    run_.slots[graph.inputs[i].slot].value = inputs[i];
  }
  run_.begin(options != nullptr ? options->deadline_ns : 0);
  Failure failure = execute(options != nullptr && options->profile != 0);
  run_.end();
  return failure.ok() ? give(outputs) : failure;
}

Failure Context::execute(bool profile) {
  for (std::size_t i = 0; i < model_.graph.nodes.size(); ++i) {
    const Node& node = model_.graph.nodes[i];
    if (Failure failure = run_.interrupted(); !failure.ok()) return failure;
    const std::int64_t start = profile ? now_ns() : 0;
    if (Failure failure = node.compute(node, run_); !failure.ok()) return failure;
    if (!profile) continue;
    profile_[i].duration_ns += static_cast<std::uint64_t>(now_ns() - start);
    profile_[i].calls += 1;
  }
  return run_.interrupted();
}

Failure Context::give(eb_value* outputs) {
  // The caller's fields change only when nothing can fail any more.
  Failure failure;
  std::string too_small;
  std::size_t done = 0;
  for (; done < scratch_.size() && failure.ok(); ++done) {
    const Port& port = model_.graph.outputs[done];
    const eb_value& value = run_.slots[port.slot].value;
    eb_value& result = scratch_[done] = outputs[done];
    if (outputs[done].kind == EB_KIND_NONE) {
      failure = copy_value(host(), value, &result);
    } else if (value.kind != EB_KIND_TENSOR || value.dtype == EB_STRING) {
      failure = {EB_INVALID_ARGUMENT, "output '" + port.name + "': only a tensor of numbers can be bound to a buffer"};
    } else {
      describe_result(value, &result);
      if (value.byte_size > result.byte_capacity) {
        too_small += (too_small.empty() ? "output '" : "; output '") + port.name + "' needs " +
                     std::to_string(value.byte_size) + " bytes, the bound buffer has " +
                     std::to_string(result.byte_capacity);
      }
    }
  }
  if (failure.ok() && too_small.empty()) {
    for (std::size_t i = 0; i < scratch_.size(); ++i) {
      const eb_value& value = run_.slots[model_.graph.outputs[i].slot].value;
      if (outputs[i].kind == EB_KIND_TENSOR && value.byte_size != 0) {
        std::memmove(scratch_[i].data, value.data, static_cast<std::size_t>(value.byte_size));
      }
      outputs[i] = scratch_[i];
    }
    return {};
  }
  for (std::size_t i = 0; i < done; ++i) {
    if (outputs[i].kind == EB_KIND_NONE) {
      if (scratch_[i].release != nullptr) scratch_[i].release(&scratch_[i]);
    } else if (failure.ok() && scratch_[i].byte_size > outputs[i].byte_capacity) {
      describe_result(scratch_[i], &outputs[i]);
    }
  }
  return failure.ok() ? Failure{EB_BUFFER_TOO_SMALL, too_small} : failure;
}

void Context::read_profile(const eb_profile_entry** entries, std::size_t* count) {
  published_.clear();
  for (const eb_profile_entry& entry : profile_) {
    if (entry.calls != 0) published_.push_back(entry);
  }
  *entries = published_.data();
  *count = published_.size();
}

}  // namespace edgebuild::reference
