// eb_value to and from LibTorch's tensors.

#include <ATen/Functions.h>

#include <algorithm>

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {

c10::ScalarType to_engine(std::uint32_t dtype) noexcept {
  switch (dtype) {
    case EB_FLOAT32:
      return c10::ScalarType::Float;
    case EB_UINT8:
      return c10::ScalarType::Byte;
    case EB_INT8:
      return c10::ScalarType::Char;
    case EB_UINT16:
      return c10::ScalarType::UInt16;
    case EB_INT16:
      return c10::ScalarType::Short;
    case EB_INT32:
      return c10::ScalarType::Int;
    case EB_INT64:
      return c10::ScalarType::Long;
    case EB_BOOL:
      return c10::ScalarType::Bool;
    case EB_FLOAT16:
      return c10::ScalarType::Half;
    case EB_FLOAT64:
      return c10::ScalarType::Double;
    case EB_UINT32:
      return c10::ScalarType::UInt32;
    case EB_UINT64:
      return c10::ScalarType::UInt64;
    case EB_COMPLEX64:
      return c10::ScalarType::ComplexFloat;
    case EB_COMPLEX128:
      return c10::ScalarType::ComplexDouble;
    case EB_BFLOAT16:
      return c10::ScalarType::BFloat16;
    case EB_FLOAT8_E4M3FN:
      return c10::ScalarType::Float8_e4m3fn;
    case EB_FLOAT8_E4M3FNUZ:
      return c10::ScalarType::Float8_e4m3fnuz;
    case EB_FLOAT8_E5M2:
      return c10::ScalarType::Float8_e5m2;
    case EB_FLOAT8_E5M2FNUZ:
      return c10::ScalarType::Float8_e5m2fnuz;
    case EB_FLOAT8_E8M0:
      return c10::ScalarType::Float8_e8m0fnu;
    default:
      return c10::ScalarType::Undefined;
  }
}

eb_dtype from_engine(c10::ScalarType type) noexcept {
  if (type == c10::ScalarType::Undefined) return EB_DTYPE_UNDEFINED;
  for (std::uint32_t dtype = EB_FLOAT32; dtype <= EB_INT2; ++dtype) {
    if (to_engine(dtype) == type) return static_cast<eb_dtype>(dtype);
  }
  return EB_DTYPE_UNDEFINED;
}

eb_status* view_tensor(const eb_host_api& host, const std::string& name, const eb_value& value, at::Tensor* out) {
  const c10::ScalarType type = to_engine(value.dtype);
  if (value.device_type != EB_DEVICE_CPU || type == c10::ScalarType::Undefined) {
    return plugin::make_error(host, EB_UNSUPPORTED,
                              "input '" + name + "': LibTorch's CPU kernels take no such dtype or device");
  }
  const c10::IntArrayRef shape(value.shape, value.rank);
  const auto options = at::TensorOptions().dtype(type).device(c10::kCPU);
  *out = value.data == nullptr ? at::empty(shape, options) : at::from_blob(value.data, shape, options);
  return nullptr;
}

eb_status* describe_tensor(const eb_host_api& host, const std::string& name, const at::Tensor& tensor, eb_value* out) {
  const auto unsupported = [&](const std::string& what) {
    return plugin::make_error(host, EB_UNSUPPORTED, "output '" + name + "': " + what);
  };
  if (!tensor.defined()) return unsupported("the model returned an undefined tensor");
  if (tensor.layout() != c10::kStrided || !tensor.device().is_cpu()) {
    return unsupported("expected a dense tensor on the CPU, got one that is " + c10::str(tensor.layout()) + " on " +
                       tensor.device().str());
  }
  const eb_dtype dtype = from_engine(tensor.scalar_type());
  if (dtype == EB_DTYPE_UNDEFINED) {
    return unsupported(std::string("edgebuild has no dtype for LibTorch's ") + c10::toString(tensor.scalar_type()));
  }
  if (tensor.dim() > static_cast<std::int64_t>(EB_MAX_RANK)) return unsupported("its rank is above 16");
  out->kind = EB_KIND_TENSOR;
  out->dtype = dtype;
  out->device_type = EB_DEVICE_CPU;
  out->device_id = 0;
  out->rank = static_cast<std::uint32_t>(tensor.dim());
  std::copy(tensor.sizes().begin(), tensor.sizes().end(), out->shape);
  out->byte_size = static_cast<std::uint64_t>(tensor.numel()) * static_cast<std::uint64_t>(tensor.element_size());
  return nullptr;
}

eb_status* flatten(const eb_host_api& host, const c10::IValue& value, std::vector<at::Tensor>* out) {
  if (value.isTensor()) {
    out->push_back(value.toTensor());
    return nullptr;
  }
  if (value.isTuple()) {
    for (const c10::IValue& element : value.toTupleRef().elements()) EDGEBUILD_PLUGIN_TRY(flatten(host, element, out));
    return nullptr;
  }
  if (value.isTensorList()) {
    const auto list = value.toTensorList();
    for (std::size_t i = 0; i < list.size(); ++i) out->push_back(list.get(i));
    return nullptr;
  }
  if (value.isList()) {
    const auto list = value.toListRef();
    for (const c10::IValue& element : list) EDGEBUILD_PLUGIN_TRY(flatten(host, element, out));
    return nullptr;
  }
  if (value.isGenericDict()) {
    for (const auto& entry : value.toGenericDict()) EDGEBUILD_PLUGIN_TRY(flatten(host, entry.value(), out));
    return nullptr;
  }
  if (value.isNone() || value.isScalar() || value.isString() || value.isDevice()) return nullptr;
  return plugin::make_error(host, EB_UNSUPPORTED,
                            "the model returns a value of type " + value.tagKind() +
                                "; edgebuild handles tensors, and tuples, lists and dicts of them");
}

}  // namespace edgebuild::libtorch
