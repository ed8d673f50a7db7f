// eb_value to and from the engine's values.

#include <cstring>

#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {
namespace {

// Numbers behind 22 are newer than the header that this is compiled with; the engine's and ONNX's numbering part there.
constexpr auto kFloat4E2M1 = static_cast<ONNXTensorElementDataType>(23);
constexpr auto kUint2 = static_cast<ONNXTensorElementDataType>(24);
constexpr auto kInt2 = static_cast<ONNXTensorElementDataType>(25);

/// What an exported value keeps alive.
struct Export {
  const OrtApi* api;
  OrtValue* value = nullptr;
  std::vector<eb_string> strings;
  std::string characters;
  std::vector<eb_value> items;

  explicit Export(const OrtApi& owner_api) noexcept : api(&owner_api) {}
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;
  ~Export() {
    for (eb_value& item : items) {
      if (item.release != nullptr) item.release(&item);
    }
    if (value != nullptr) api->ReleaseValue(value);
  }
};

void release_export(eb_value* value) {
  delete static_cast<Export*>(value->owner);
  value->owner = nullptr;
  value->release = nullptr;
}

unsigned bits_of(eb_dtype dtype) noexcept {
  switch (dtype) {
    case EB_UINT2:
    case EB_INT2:
      return 2;
    case EB_UINT4:
    case EB_INT4:
    case EB_FLOAT4_E2M1:
      return 4;
    case EB_UINT16:
    case EB_INT16:
    case EB_FLOAT16:
    case EB_BFLOAT16:
      return 16;
    case EB_FLOAT32:
    case EB_INT32:
    case EB_UINT32:
      return 32;
    case EB_INT64:
    case EB_UINT64:
    case EB_FLOAT64:
    case EB_COMPLEX64:
      return 64;
    case EB_COMPLEX128:
      return 128;
    default:
      return 8;
  }
}

/// Shape and dtype of the engine's tensor; `count` gets its elements.
OrtStatus* read_shape(const Backend& backend, const OrtValue* value, eb_value* out, std::size_t* count, bool* fits) {
  const OrtApi& api = backend.api();
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  EDGEBUILD_ORT_TRY(api.GetTensorTypeAndShape(value, &raw));
  const auto info = backend.own(raw, api.ReleaseTensorTypeAndShapeInfo);
  std::size_t rank = 0;
  EDGEBUILD_ORT_TRY(api.GetDimensionsCount(raw, &rank));
  *fits = rank <= EB_MAX_RANK;
  if (!*fits) return nullptr;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  EDGEBUILD_ORT_TRY(api.GetTensorElementType(raw, &element));
  EDGEBUILD_ORT_TRY(api.GetDimensions(raw, out->shape, rank));
  out->kind = EB_KIND_TENSOR;
  out->dtype = from_engine(element);
  out->rank = static_cast<std::uint32_t>(rank);
  return api.GetTensorShapeElementCount(raw, count);
}

OrtStatus* read_strings(const OrtApi& api, const OrtValue* value, std::size_t count, Export* keep) {
  std::size_t bytes = 0;
  EDGEBUILD_ORT_TRY(api.GetStringTensorDataLength(value, &bytes));
  std::vector<std::size_t> offsets(count);
  keep->characters.resize(bytes);
  keep->strings.resize(count);
  if (count == 0) return nullptr;
  EDGEBUILD_ORT_TRY(api.GetStringTensorContent(value, keep->characters.data(), bytes, offsets.data(), count));
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t end = i + 1 < count ? offsets[i + 1] : bytes;
    keep->strings[i] = {keep->characters.data() + offsets[i], end - offsets[i]};
  }
  return nullptr;
}

OrtStatus* fill_strings(const OrtApi& api, OrtValue* target, const eb_value& value, std::uint64_t count) {
  const auto* const strings = static_cast<const eb_string*>(value.data);
  for (std::size_t i = 0; i < count; ++i) {
    char* buffer = nullptr;
    EDGEBUILD_ORT_TRY(
        api.GetResizedStringTensorElementBuffer(target, i, static_cast<std::size_t>(strings[i].size), &buffer));
    if (strings[i].size != 0) std::memcpy(buffer, strings[i].data, static_cast<std::size_t>(strings[i].size));
  }
  return nullptr;
}

OrtStatus* make_tensor(const Backend& backend, const eb_value& value, ONNXTensorElementDataType element,
                       OrtValue** out) {
  const OrtApi& api = backend.api();
  if (value.dtype == EB_STRING) {
    EDGEBUILD_ORT_TRY(api.CreateTensorAsOrtValue(backend.allocator(), value.shape, value.rank, element, out));
    OrtStatus* const status = fill_strings(api, *out, value, value.byte_size / sizeof(eb_string));
    if (status != nullptr) api.ReleaseValue(std::exchange(*out, nullptr));
    return status;
  }
  static std::uint64_t nothing = 0;  // The engine wants a pointer even to no bytes.
  void* const data = value.data != nullptr ? value.data : &nothing;
  return api.CreateTensorWithDataAsOrtValue(backend.cpu(), data, static_cast<std::size_t>(value.byte_size), value.shape,
                                            value.rank, element, out);
}

}  // namespace

ONNXTensorElementDataType to_engine(eb_dtype dtype) noexcept {
  switch (dtype) {
    case EB_FLOAT4_E2M1:
      return kFloat4E2M1;
    case EB_UINT2:
      return kUint2;
    case EB_INT2:
      return kInt2;
    case EB_FLOAT8_E8M0:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    default:
      return static_cast<ONNXTensorElementDataType>(dtype);
  }
}

eb_dtype from_engine(ONNXTensorElementDataType element) noexcept {
  if (element == kFloat4E2M1) return EB_FLOAT4_E2M1;
  if (element == kUint2) return EB_UINT2;
  if (element == kInt2) return EB_INT2;
  return element >= 0 && element <= ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4 ? static_cast<eb_dtype>(element)
                                                                       : EB_DTYPE_UNDEFINED;
}

std::uint64_t tensor_bytes(eb_dtype dtype, std::uint64_t count) noexcept {
  const unsigned bits = bits_of(dtype);
  return bits >= 8 ? count * (bits / 8) : (count + 8 / bits - 1) / (8 / bits);
}

eb_status* make_value(const Model& model, const Port& port, const eb_value& value, OrtValue** out) {
  const Backend& backend = model.backend();
  const OrtApi& api = backend.api();
  if (value.kind == EB_KIND_TENSOR) {
    const ONNXTensorElementDataType element = to_engine(static_cast<eb_dtype>(value.dtype));
    if (value.device_type != EB_DEVICE_CPU || element == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) {
      return plugin::make_error(backend.host(), EB_UNSUPPORTED,
                                "input '" + port.name + "': ONNX Runtime's CPU provider takes no such dtype or device");
    }
    return backend.take(make_tensor(backend, value, element, out), "input", port.name);
  }
  if (value.kind != EB_KIND_SEQUENCE) {  // An absent optional never comes here: it is left unbound.
    return plugin::make_error(backend.host(), EB_INVALID_ARGUMENT,
                              "input '" + port.name + "': neither a tensor nor a sequence");
  }
  if (value.item_count == 0) return model.empty_sequence(port, out);
  std::vector<Handle<OrtValue>> items;
  std::vector<const OrtValue*> pointers;
  for (std::uint64_t i = 0; i < value.item_count; ++i) {
    OrtValue* item = nullptr;
    EDGEBUILD_PLUGIN_TRY(make_value(model, port, value.items[i], &item));
    items.push_back(backend.own(item, api.ReleaseValue));
    pointers.push_back(item);
  }
  return backend.take(api.CreateValue(pointers.data(), pointers.size(), ONNX_TYPE_SEQUENCE, out), "input", port.name);
}

eb_status* view_tensor(const Backend& backend, const Port& port, OrtValue* value, eb_value* out) {
  std::size_t count = 0;
  bool fits = true;
  *out = {};
  out->struct_size = sizeof(eb_value);
  out->device_type = EB_DEVICE_CPU;
  EDGEBUILD_PLUGIN_TRY(backend.take(read_shape(backend, value, out, &count, &fits), "output", port.name));
  if (!fits || out->dtype == EB_DTYPE_UNDEFINED) {
    return plugin::make_error(
        backend.host(), EB_UNSUPPORTED,
        "output '" + port.name + "'" + (fits ? ": its dtype has no name in edgebuild" : ": its rank is above 16"));
  }
  out->byte_size =
      out->dtype == EB_STRING ? count * sizeof(eb_string) : tensor_bytes(static_cast<eb_dtype>(out->dtype), count);
  if (out->dtype == EB_STRING) return nullptr;
  return backend.take(backend.api().GetTensorMutableData(value, &out->data), "output", port.name);
}

eb_status* export_value(const Backend& backend, const Port& port, OrtValue* value, eb_value* out) {
  const OrtApi& api = backend.api();
  auto keep = std::make_unique<Export>(api);
  keep->value = value;
  eb_value result{};
  result.struct_size = sizeof(eb_value);
  result.device_type = EB_DEVICE_CPU;

  int has_value = 1;
  EDGEBUILD_PLUGIN_TRY(backend.take(api.HasValue(value, &has_value), "output", port.name));
  ONNXType type = ONNX_TYPE_UNKNOWN;
  if (has_value != 0) EDGEBUILD_PLUGIN_TRY(backend.take(api.GetValueType(value, &type), "output", port.name));
  if (has_value == 0) {
    *out = result;  // An absent optional owns nothing.
    return nullptr;
  }
  if (type == ONNX_TYPE_TENSOR) {
    EDGEBUILD_PLUGIN_TRY(view_tensor(backend, port, value, &result));
    if (result.dtype == EB_STRING) {
      const auto count = static_cast<std::size_t>(result.byte_size / sizeof(eb_string));
      EDGEBUILD_PLUGIN_TRY(backend.take(read_strings(api, value, count, keep.get()), "output", port.name));
      result.data = keep->strings.empty() ? nullptr : keep->strings.data();
    }
  } else if (type == ONNX_TYPE_SEQUENCE) {
    std::size_t count = 0;
    EDGEBUILD_PLUGIN_TRY(backend.take(api.GetValueCount(value, &count), "output", port.name));
    keep->items.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      OrtValue* item = nullptr;
      EDGEBUILD_PLUGIN_TRY(
          backend.take(api.GetValue(value, static_cast<int>(i), backend.allocator(), &item), "output", port.name));
      eb_value exported{};
      EDGEBUILD_PLUGIN_TRY(export_value(backend, port, item, &exported));
      keep->items.push_back(exported);
    }
    result.kind = EB_KIND_SEQUENCE;
    result.dtype = port.dtype;
    result.items = keep->items.empty() ? nullptr : keep->items.data();
    result.item_count = count;
  } else {
    return plugin::make_error(backend.host(), EB_UNSUPPORTED,
                              "output '" + port.name + "': neither a tensor nor a sequence of tensors");
  }
  result.owner = keep.release();
  result.release = release_export;
  *out = result;
  return nullptr;
}

}  // namespace edgebuild::onnxruntime
