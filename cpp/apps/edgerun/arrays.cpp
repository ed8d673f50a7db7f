#include "arrays.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "packing.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::DType;
using edgebuild::pack;
using edgebuild::Result;
using edgebuild::Status;
using edgebuild::unpack;
using edgebuild::Value;

std::span<const std::int64_t> shape_of(const eb_value& tensor) { return {tensor.shape, tensor.rank}; }

std::uint64_t element_count(std::span<const std::int64_t> shape) {
  std::uint64_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::uint64_t>(size);
  return count;
}

bool is_sub_byte(DType dtype) {
  const unsigned bits = edgebuild::dtype_bits(dtype);
  return bits != 0 && bits < 8;
}

// Whether an array of `type` may stand for a tensor of `dtype`: as we write it, or as numpy.save writes ml_dtypes.
bool stands_for(const NpyType& type, DType dtype) {
  if (dtype == EB_STRING) return type.kind == 'U' || type.kind == 'S';
  const NpyType own = npy_type(dtype);
  if (type == own) return true;
  switch (dtype) {
    case EB_BFLOAT16:
      return type == NpyType{'V', 2};
    case EB_FLOAT8_E4M3FN:
    case EB_FLOAT8_E4M3FNUZ:
    case EB_FLOAT8_E5M2:
    case EB_FLOAT8_E5M2FNUZ:
    case EB_FLOAT8_E8M0:
      return type == NpyType{'V', 1} || type == NpyType{'f', 1};
    case EB_INT4:
    case EB_INT2:
      return type == NpyType{'V', 1} || type == NpyType{'i', 1};
    case EB_UINT4:
    case EB_UINT2:
    case EB_FLOAT4_E2M1:
      return type == NpyType{'V', 1};
    default:
      return false;
  }
}

std::string type_name(const NpyType& type) {
  switch (type.kind) {
    case 'b':
      return "bool";
    case 'i':
      return "int" + std::to_string(type.item_size * 8);
    case 'u':
      return "uint" + std::to_string(type.item_size * 8);
    case 'f':
      return "float" + std::to_string(type.item_size * 8);
    case 'c':
      return "complex" + std::to_string(type.item_size * 8);
    default:
      return to_string(type);
  }
}

void append_utf8(std::string& text, std::uint32_t point) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0U | point >> 6U);
    put(0x80U | (point & 0x3FU));
  } else if (point < 0x10000) {
    put(0xE0U | point >> 12U);
    put(0x80U | (point >> 6U & 0x3FU));
    put(0x80U | (point & 0x3FU));
  } else {
    put(0xF0U | point >> 18U);
    put(0x80U | (point >> 12U & 0x3FU));
    put(0x80U | (point >> 6U & 0x3FU));
    put(0x80U | (point & 0x3FU));
  }
}

// UTF-8 to code points; a byte that is not UTF-8 becomes U+FFFD.
std::u32string decode_utf8(const char* data, std::size_t size) {
  std::u32string points;
  for (std::size_t i = 0; i < size;) {
    const auto lead = static_cast<unsigned char>(data[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead >> 5U == 6 ? 2 : lead >> 4U == 14 ? 3 : lead >> 3U == 30 ? 4 : 0;
    std::uint32_t point = length == 1 ? lead : lead & (0x7FU >> length);
    bool valid = length != 0 && i + length <= size;
    for (std::size_t k = 1; valid && k < length; ++k) {
      const auto next = static_cast<unsigned char>(data[i + k]);
      valid = next >> 6U == 2;
      point = point << 6U | (next & 0x3FU);
    }
    points += valid ? static_cast<char32_t>(point) : U'\uFFFD';
    i += valid ? length : 1;
  }
  return points;
}

Result<Value> strings_from_array(const NpyArray& array, const std::string& name) {
  const std::uint64_t count = element_count(array.shape);  // Of empty strings there may be more than fit anywhere.
  std::vector<std::string> elements;
  if (count > elements.max_size()) {
    return Status(Code::kResourceExhausted, "input '" + name + "': " + std::to_string(count) + " strings are too many");
  }
  elements.resize(static_cast<std::size_t>(count));
  const std::size_t item = array.type.item_size;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    const std::byte* from = array.data.data() + i * item;
    if (array.type.kind == 'S') {
      std::size_t size = item;
      while (size > 0 && from[size - 1] == std::byte{0}) --size;  // NumPy pads with NULs
      elements[i].assign(reinterpret_cast<const char*>(from), size);
      continue;
    }
    std::u32string points(item / 4, U'\0');
    std::memcpy(points.data(), from, item);
    while (!points.empty() && points.back() == U'\0') points.pop_back();
    for (const char32_t point : points) {
      if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) {
        return Status(Code::kInvalidArgument, "input '" + name + "': element " + std::to_string(i) +
                                                  " holds a number that is not a Unicode character");
      }
      append_utf8(elements[i], point);
    }
  }
  return Value::strings(array.shape, elements);
}

NpyArray array_from_strings(const eb_value& tensor) {
  const auto* strings = static_cast<const eb_string*>(tensor.data);
  const auto count = static_cast<std::size_t>(element_count(shape_of(tensor)));  // They are in memory already.
  std::vector<std::u32string> decoded;
  decoded.reserve(count);
  std::size_t longest = 1;
  for (std::size_t i = 0; i < count; ++i) {
    decoded.push_back(decode_utf8(strings[i].data, static_cast<std::size_t>(strings[i].size)));
    longest = std::max(longest, decoded.back().size());
  }
  NpyArray array;
  array.type = {'U', static_cast<std::uint32_t>(longest * 4)};
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(count, longest * 4, &bytes)) throw std::bad_alloc();  // On a 32-bit board.
  array.storage.resize(bytes);
  for (std::size_t i = 0; i < count; ++i) {
    if (decoded[i].empty()) continue;
    std::memcpy(array.storage.data() + i * longest * 4, decoded[i].data(), decoded[i].size() * 4);
  }
  array.data = array.storage;
  return array;
}

}  // namespace

NpyType npy_type(DType dtype) noexcept {
  switch (dtype) {
    case EB_BOOL:
      return {'b', 1};
    case EB_INT8:
      return {'i', 1};
    case EB_INT16:
      return {'i', 2};
    case EB_INT32:
      return {'i', 4};
    case EB_INT64:
      return {'i', 8};
    case EB_UINT16:
    case EB_BFLOAT16:
      return {'u', 2};
    case EB_UINT32:
      return {'u', 4};
    case EB_UINT64:
      return {'u', 8};
    case EB_FLOAT16:
      return {'f', 2};
    case EB_FLOAT32:
      return {'f', 4};
    case EB_FLOAT64:
      return {'f', 8};
    case EB_COMPLEX64:
      return {'c', 8};
    case EB_COMPLEX128:
      return {'c', 16};
    case EB_STRING:
      return {'U', 0};
    default:
      return {'u', 1};
  }
}

Result<Value> value_from_array(NpyArray array, DType dtype, const std::string& name, Storage& storage) {
  if (!stands_for(array.type, dtype)) {
    std::string expected = edgebuild::dtype_name(dtype);
    const std::string carrier = type_name(npy_type(dtype));
    if (dtype == EB_STRING) {
      expected += " (as an array of dtype U or S)";
    } else if (carrier != expected) {
      expected += " (as a raw " + carrier + " array)";
    }
    const std::string convert = dtype == EB_STRING ? "" : "; convert it, in NumPy with astype('" + carrier + "')";
    return Status(Code::kInvalidArgument,
                  "input '" + name + "': expected dtype " + expected + ", got " + type_name(array.type) + convert);
  }
  if (dtype == EB_STRING) return strings_from_array(array, name);
  if (is_sub_byte(dtype)) {
    auto packed = std::make_shared<const std::vector<std::byte>>(pack(array.data, edgebuild::dtype_bits(dtype)));
    storage.push_back(packed);
    return Value::view(dtype, array.shape, packed->data(), packed->size());
  }
  auto kept = std::make_shared<const NpyArray>(std::move(array));
  storage.push_back(kept);
  return Value::view(dtype, kept->shape, kept->data.data(), kept->data.size());
}

Result<Value> value_from_raw(std::span<const std::byte> bytes, DType dtype, std::span<const std::int64_t> shape,
                             const std::string& name) {
  if (dtype != EB_STRING) {
    Result<Value> value = Value::view(dtype, shape, bytes.data(), bytes.size());
    if (!value.ok()) return value.status().with_context("input '" + name + "'");
    const auto wrong = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b > std::byte{1}; });
    if (dtype == EB_BOOL && wrong != bytes.end()) {
      return Status(Code::kInvalidArgument, "input '" + name + "': byte " + std::to_string(wrong - bytes.begin()) +
                                                " is " + std::to_string(static_cast<unsigned>(*wrong)) +
                                                "; a bool is 0 or 1");
    }
    return value;
  }
  const std::uint64_t count = element_count(shape);
  if (count > bytes.size() / 4) {
    return Status(Code::kInvalidArgument,
                  "input '" + name + "': too few bytes for " + std::to_string(count) + " strings");
  }
  std::vector<std::string> elements;
  elements.reserve(static_cast<std::size_t>(count));
  std::span<const std::byte> rest = bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint32_t size = 0;
    if (rest.size() >= 4) std::memcpy(&size, rest.data(), 4);
    if (rest.size() < 4 || size > rest.size() - 4) {
      return Status(Code::kInvalidArgument, "input '" + name + "': truncated in string " + std::to_string(i));
    }
    elements.emplace_back(reinterpret_cast<const char*>(rest.data()) + 4, size);
    rest = rest.subspan(4 + size);
  }
  if (!rest.empty()) return Status(Code::kInvalidArgument, "input '" + name + "': has bytes after its last string");
  return Value::strings(shape, elements);
}

NpyArray array_from_tensor(const eb_value& tensor) {
  const auto dtype = static_cast<DType>(tensor.dtype);
  NpyArray array;
  if (dtype == EB_STRING) {
    array = array_from_strings(tensor);
  } else if (is_sub_byte(dtype)) {
    array.type = npy_type(dtype);
    const std::uint64_t count = element_count(shape_of(tensor));  // up to four times the bytes that are in memory
    if (count > SIZE_MAX) throw std::bad_alloc();
    array.storage.resize(static_cast<std::size_t>(count));
    unpack(static_cast<const std::byte*>(tensor.data), edgebuild::dtype_bits(dtype), array.storage);
    array.data = array.storage;
  } else {
    array.type = npy_type(dtype);
    array.data = {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.byte_size)};
  }
  array.shape.assign(tensor.shape, tensor.shape + tensor.rank);
  return array;
}

std::span<const std::byte> raw_from_tensor(const eb_value& tensor, std::vector<std::byte>& storage) {
  if (tensor.dtype != EB_STRING) {
    return {static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.byte_size)};
  }
  const auto* strings = static_cast<const eb_string*>(tensor.data);
  const std::uint64_t count = element_count(shape_of(tensor));
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto size = static_cast<std::uint32_t>(strings[i].size);
    const std::size_t at = storage.size();
    storage.resize(at + 4 + size);
    std::memcpy(storage.data() + at, &size, 4);
    if (size > 0) std::memcpy(storage.data() + at + 4, strings[i].data, size);
  }
  return storage;
}

}  // namespace edgerun
