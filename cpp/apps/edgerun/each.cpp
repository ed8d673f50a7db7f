#include "each.hpp"

#include <cstring>

#include "told_progress.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::Value;

bool can_be_sliced(const eb_value& value) {
  return value.kind == EB_KIND_TENSOR && edgebuild::dtype_bits(static_cast<eb_dtype>(value.dtype)) >= 8;
}

Result<std::int64_t> leading_length(const edgebuild::Signature& signature, std::span<const Value> inputs) {
  std::int64_t length = -1;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const eb_value& raw = inputs[i].raw();
    const std::string& name = signature.inputs[i].name;
    if (!can_be_sliced(raw)) {
      return Status(Code::kInvalidArgument, "input '" + name + "': --each takes tensors of whole-byte elements only");
    }
    if (raw.rank == 0) {
      return Status(Code::kInvalidArgument,
                    "input '" + name + "': --each expects one more leading axis than the signature has, got a scalar");
    }
    if (length >= 0 && raw.shape[0] != length) {
      return Status(Code::kInvalidArgument, "input '" + name + "': --each expects a leading axis of " +
                                                std::to_string(length) + " as in the inputs before, got " +
                                                std::to_string(raw.shape[0]));
    }
    length = raw.shape[0];
  }
  if (length < 0) return Status(Code::kUsage, "--each needs an input, and this model has none");
  return length;
}

/// Item `index` of every input, as views.
Result<std::vector<Value>> slice(std::span<const Value> inputs, std::int64_t index) {
  std::vector<Value> items;
  items.reserve(inputs.size());
  for (const Value& input : inputs) {
    const std::size_t bytes = input.byte_size() / static_cast<std::size_t>(input.shape()[0]);
    const auto* data = static_cast<const std::byte*>(input.data());
    if (bytes > 0) data += bytes * static_cast<std::size_t>(index);
    Result<Value> item = Value::view(input.dtype(), input.shape().subspan(1), data, bytes);
    if (!item.ok()) return item.status();
    items.push_back(std::move(item).value());
  }
  return items;
}

/// What all results of one output have in common.
struct Kept {
  edgebuild::DType dtype = EB_DTYPE_UNDEFINED;
  std::vector<std::int64_t> shape;
};

Status append(const std::string& name, const Value& output, bool first, Kept* kept, std::vector<std::byte>* bytes) {
  if (!can_be_sliced(output.raw())) {
    return {Code::kInvalidArgument, "output '" + name + "': --each stacks tensors of whole-byte elements only"};
  }
  const std::vector<std::int64_t> shape(output.shape().begin(), output.shape().end());
  if (first) {
    *kept = {output.dtype(), shape};
  } else if (kept->dtype != output.dtype() || kept->shape != shape) {
    return {Code::kInvalidArgument,
            "output '" + name + "': its shape changes between inferences, so it can't be stacked"};
  }
  const auto* data = static_cast<const std::byte*>(output.data());
  if (output.byte_size() > 0) bytes->insert(bytes->end(), data, data + output.byte_size());
  return {};
}

}  // namespace

Result<StackedOutputs> run_each(edgebuild::Runner& runner, std::span<const Value> inputs,
                                const std::function<edgebuild::RunOptions()>& options) {
  const edgebuild::Signature& signature = runner.signature();
  const Result<std::int64_t> length = leading_length(signature, inputs);
  if (!length.ok()) return length.status();
  if (length.value() == 0) return Status(Code::kInvalidArgument, "--each: the inputs' leading axis is empty");

  StackedOutputs stacked;
  stacked.count = length.value();
  stacked.storage.resize(signature.outputs.size());
  std::vector<Kept> kept(signature.outputs.size());
  for (std::int64_t index = 0; index < stacked.count; ++index) {
    Result<std::vector<Value>> items = slice(inputs, index);
    if (!items.ok()) return items.status();
    std::vector<Value> outputs(signature.outputs.size());
    const Status status = runner.run(items.value(), outputs, options());
    if (!status.ok()) return status.with_context("item " + std::to_string(index));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      EDGEBUILD_RETURN_IF_ERROR(
          append(signature.outputs[i].name, outputs[i], index == 0, &kept[i], &stacked.storage[i]));
    }
    tell_progress(static_cast<std::size_t>(index) + 1, static_cast<std::size_t>(stacked.count));
  }
  for (std::size_t i = 0; i < kept.size(); ++i) {
    std::vector<std::int64_t> shape = {stacked.count};
    shape.insert(shape.end(), kept[i].shape.begin(), kept[i].shape.end());
    Result<Value> value = Value::view(kept[i].dtype, shape, stacked.storage[i].data(), stacked.storage[i].size());
    if (!value.ok()) return value.status().with_context("output '" + signature.outputs[i].name + "'");
    stacked.values.push_back(std::move(value).value());
  }
  return stacked;
}

}  // namespace edgerun
