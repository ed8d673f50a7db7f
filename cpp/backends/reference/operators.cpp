// The operators. Every shape is checked against every other: a model file is somebody's input.

#include <algorithm>
#include <cstring>

#include "reference/reference.hpp"

namespace edgebuild::reference {
namespace {

constexpr std::size_t kAnyNumber = 10000;

const eb_value& input(const Node& node, const Run& run, std::size_t index) {
  return run.slots[node.inputs[index]].value;
}

Failure bad_input(const Node& node, const char* expected) {
  return {EB_INVALID_ARGUMENT, "node '" + node.name + "' (" + node.op_type + "): expected " + expected};
}

bool is_number(const eb_value& value) noexcept {
  return value.kind == EB_KIND_TENSOR && (value.dtype == EB_FLOAT32 || value.dtype == EB_INT64);
}

template <typename T>
const T* elements(const eb_value& value) noexcept {
  return static_cast<const T*>(value.data);
}

/// Passes a value on, without a copy.
Failure identity(const Node& node, Run& run) {
  run.slots[node.output].value = input(node, run, 0);
  return {};
}

/// Index into a broadcast operand for the multi-index of the result.
std::size_t broadcast_offset(const eb_value& operand, const eb_value& result, std::size_t flat) noexcept {
  std::size_t offset = 0;
  std::size_t stride = 1;
  for (std::uint32_t back = 0; back < result.rank; ++back) {
    const auto size = static_cast<std::size_t>(result.shape[result.rank - 1 - back]);
    const std::size_t index = flat % size;
    flat /= size;
    if (back >= operand.rank) continue;
    const auto own = static_cast<std::size_t>(operand.shape[operand.rank - 1 - back]);
    if (own != 1) offset += index * stride;
    stride *= own;
  }
  return offset;
}

bool broadcast_shape(const eb_value& a, const eb_value& b, std::int64_t* shape, std::uint32_t* rank) noexcept {
  *rank = std::max(a.rank, b.rank);
  for (std::uint32_t back = 0; back < *rank; ++back) {
    const std::int64_t left = back < a.rank ? a.shape[a.rank - 1 - back] : 1;
    const std::int64_t right = back < b.rank ? b.shape[b.rank - 1 - back] : 1;
    if (left != right && left != 1 && right != 1) return false;
    shape[*rank - 1 - back] = left == 1 ? right : left;
  }
  return true;
}

template <typename T, typename Function>
Failure each_pair(const Node& node, Run& run, Function function) {
  const eb_value& a = input(node, run, 0);
  const eb_value& b = input(node, run, 1);
  const eb_value& result = run.slots[node.output].value;
  auto* const out = static_cast<T*>(result.data);
  const std::size_t count = static_cast<std::size_t>(result.byte_size) / sizeof(T);
  for (std::size_t i = 0; i < count; ++i) {
    if (i % 65536 == 0) {
      if (Failure failure = run.interrupted(); !failure.ok()) return failure;
    }
    out[i] = function(elements<T>(a)[broadcast_offset(a, result, i)], elements<T>(b)[broadcast_offset(b, result, i)]);
  }
  return {};
}

template <typename Real, typename Integer>
Failure elementwise(const Node& node, Run& run, Real real, Integer integer) {
  const eb_value& a = input(node, run, 0);
  const eb_value& b = input(node, run, 1);
  if (!is_number(a) || !is_number(b) || a.dtype != b.dtype)
    return bad_input(node, "two tensors of float32 or of int64");
  std::int64_t shape[EB_MAX_RANK];
  std::uint32_t rank = 0;
  if (!broadcast_shape(a, b, shape, &rank)) return bad_input(node, "shapes that broadcast");
  if (Failure failure = run.make_tensor(node.output, a.dtype, shape, rank); !failure.ok()) return failure;
  return a.dtype == EB_FLOAT32 ? each_pair<float>(node, run, real) : each_pair<std::int64_t>(node, run, integer);
}

// Integers wrap around, as in ONNX; unsigned arithmetic says so.
Failure add(const Node& node, Run& run) {
  return elementwise(
      node, run, [](float a, float b) { return a + b; },
      [](std::int64_t a, std::int64_t b) {
        return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
      });
}

Failure multiply(const Node& node, Run& run) {
  return elementwise(
      node, run, [](float a, float b) { return a * b; },
      [](std::int64_t a, std::int64_t b) {
        return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
      });
}

Failure relu(const Node& node, Run& run) {
  const eb_value a = input(node, run, 0);
  if (!is_number(a)) return bad_input(node, "a tensor of float32 or int64");
  if (Failure failure = run.make_tensor(node.output, a.dtype, a.shape, a.rank); !failure.ok()) return failure;
  void* const out = run.slots[node.output].value.data;
  for (std::size_t i = 0; a.dtype == EB_FLOAT32 && i < a.byte_size / sizeof(float); ++i) {
    const float x = elements<float>(a)[i];
    static_cast<float*>(out)[i] = x < 0.0F ? 0.0F : x;  // NaN stays NaN.
  }
  for (std::size_t i = 0; a.dtype == EB_INT64 && i < a.byte_size / sizeof(std::int64_t); ++i) {
    static_cast<std::int64_t*>(out)[i] = std::max<std::int64_t>(elements<std::int64_t>(a)[i], 0);
  }
  return {};
}

/// (M, K) x (K, N), float32; sums in order of k.
Failure matmul(const Node& node, Run& run) {
  const eb_value a = input(node, run, 0);
  const eb_value b = input(node, run, 1);
  const bool matrices = is_number(a) && is_number(b) && a.dtype == EB_FLOAT32 && b.dtype == EB_FLOAT32 && a.rank == 2 &&
                        b.rank == 2 && a.shape[1] == b.shape[0];
  if (!matrices) return bad_input(node, "two float32 matrices that fit");
  const std::int64_t shape[] = {a.shape[0], b.shape[1]};
  if (Failure failure = run.make_tensor(node.output, EB_FLOAT32, shape, 2); !failure.ok()) return failure;
  auto* const out = static_cast<float*>(run.slots[node.output].value.data);
  const auto rows = static_cast<std::size_t>(shape[0]);
  const auto columns = static_cast<std::size_t>(shape[1]);
  const auto depth = static_cast<std::size_t>(a.shape[1]);
  for (std::size_t row = 0; row < rows && columns != 0; ++row) {
    if (Failure failure = run.interrupted(); !failure.ok()) return failure;
    for (std::size_t k = 0; k < depth; ++k) {
      const float x = elements<float>(a)[row * depth + k];
      for (std::size_t column = 0; column < columns; ++column) {
        out[row * columns + column] += x * elements<float>(b)[k * columns + column];
      }
    }
  }
  return {};
}

Failure reshape(const Node& node, Run& run) {
  eb_value value = input(node, run, 0);
  if (value.kind != EB_KIND_TENSOR) return bad_input(node, "a tensor");
  std::vector<std::int64_t> shape = node.shape;
  const auto inferred = std::find(shape.begin(), shape.end(), -1);
  if (inferred != shape.end()) {
    *inferred = 1;
    const auto one = byte_size(value.dtype, shape.data(), shape.size());
    const bool packed = dtype_bits(value.dtype) < 8;  // Bytes do not tell how many elements there are.
    if (!one || *one == 0 || packed || value.byte_size % *one != 0)
      return bad_input(node, "a size that -1 can stand for");
    *inferred = static_cast<std::int64_t>(value.byte_size / *one);
  }
  if (byte_size(value.dtype, shape.data(), shape.size()) != value.byte_size) {
    return bad_input(node, "a shape of as many elements");
  }
  value.rank = static_cast<std::uint32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), value.shape);
  run.slots[node.output].value = value;
  return {};
}

Failure concat(const Node& node, Run& run) {
  const eb_value first = input(node, run, 0);
  const auto axis = static_cast<std::size_t>(node.axis);
  if (!is_number(first) || node.axis < 0 || axis >= first.rank)
    return bad_input(node, "float32 or int64, and an axis of it");
  std::int64_t shape[EB_MAX_RANK];
  std::copy_n(first.shape, first.rank, shape);
  shape[axis] = 0;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const eb_value& part = input(node, run, i);
    bool same = part.kind == EB_KIND_TENSOR && part.dtype == first.dtype && part.rank == first.rank;
    for (std::size_t d = 0; same && d < part.rank; ++d) same = d == axis || part.shape[d] == first.shape[d];
    if (!same || __builtin_add_overflow(shape[axis], part.shape[axis], &shape[axis])) {
      return bad_input(node, "tensors that differ along the axis alone");
    }
  }
  if (Failure failure = run.make_tensor(node.output, first.dtype, shape, first.rank); !failure.ok()) return failure;
  std::size_t outer = 1;
  for (std::size_t d = 0; d < axis; ++d) outer *= static_cast<std::size_t>(shape[d]);
  auto* out = static_cast<char*>(run.slots[node.output].value.data);
  for (std::size_t block = 0; block < outer; ++block) {
    for (std::size_t i = 0; i < node.inputs.size(); ++i) {
      const eb_value& part = input(node, run, i);
      const std::size_t bytes = static_cast<std::size_t>(part.byte_size) / outer;
      if (bytes == 0) continue;
      std::memcpy(out, elements<char>(part) + block * bytes, bytes);
      out += bytes;
    }
  }
  return {};
}

/// The positive elements, as a vector: a shape that depends on the values.
Failure positive(const Node& node, Run& run) {
  const eb_value a = input(node, run, 0);
  if (!is_number(a) || a.dtype != EB_FLOAT32) return bad_input(node, "a tensor of float32");
  const float* const begin = elements<float>(a);
  const float* const end = begin + a.byte_size / sizeof(float);
  const std::int64_t count = std::count_if(begin, end, [](float x) { return x > 0.0F; });
  if (Failure failure = run.make_tensor(node.output, EB_FLOAT32, &count, 1); !failure.ok()) return failure;
  if (count == 0) return {};
  std::copy_if(begin, end, static_cast<float*>(run.slots[node.output].value.data), [](float x) { return x > 0.0F; });
  return {};
}

/// All inputs as one sequence.
Failure sequence(const Node& node, Run& run) {
  Slot& slot = run.slots[node.output];
  slot.items.clear();
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    slot.items.push_back(input(node, run, i));
    if (slot.items.back().kind != EB_KIND_TENSOR) return bad_input(node, "tensors");
  }
  slot.value = {};
  slot.value.struct_size = sizeof(eb_value);
  slot.value.kind = EB_KIND_SEQUENCE;
  slot.value.device_type = EB_DEVICE_CPU;
  slot.value.dtype = slot.items.empty() ? static_cast<std::uint32_t>(EB_DTYPE_UNDEFINED) : slot.items.front().dtype;
  slot.value.items = slot.items.data();
  slot.value.item_count = slot.items.size();
  return {};
}

Failure none(const Node& node, Run& run) {
  run.slots[node.output].value = {};
  run.slots[node.output].value.struct_size = sizeof(eb_value);
  return {};
}

Failure sleep(const Node& node, Run& run) {
  if (Failure failure = run.sleep(std::chrono::milliseconds(std::min<std::int64_t>(node.milliseconds, 86400000)));
      !failure.ok()) {
    return failure;
  }
  return identity(node, run);
}

constexpr Operator kOperators[] = {
    {"identity", identity, 1, 1},
    {"add", add, 2, 2},
    {"multiply", multiply, 2, 2},
    {"relu", relu, 1, 1},
    {"matmul", matmul, 2, 2},
    {"reshape", reshape, 1, 1},
    {"concat", concat, 1, kAnyNumber},
    {"positive", positive, 1, 1},
    {"sequence", sequence, 0, kAnyNumber},
    {"none", none, 0, 0},
    {"sleep", sleep, 1, 1},
};

}  // namespace

const Operator* find_operator(const std::string& name) noexcept {
  for (const Operator& op : kOperators) {
    if (name == op.name) return &op;
  }
  return nullptr;
}

}  // namespace edgebuild::reference
