#include <span>

#include "convert.hpp"
#include "dtypes.hpp"
#include "errors.hpp"
#include "packing.hpp"

namespace py = pybind11;

namespace edgebuild::python {
namespace {

constexpr int kContiguousAligned =
    py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

[[noreturn]] void raise_signature(const std::string& message) { raise(Status(Code::kInvalidArgument, message)); }

// The array itself, or what the slow path makes of another object.
py::array as_array(py::handle object, DType dtype, const std::string& name, py::handle slow_path) {
  if (py::isinstance<py::array>(object)) {
    py::array array = py::reinterpret_borrow<py::array>(object);
    const bool usable = (array.flags() & kContiguousAligned) == kContiguousAligned && array.dtype().byteorder() != '>';
    if (usable) return array;
  }
  return py::reinterpret_steal<py::array>(slow_path(object, dtype_name(dtype), name).release());
}

Value string_value(const py::array& array, const std::string& name) {
  std::vector<std::string> elements;
  elements.reserve(static_cast<std::size_t>(array.size()));
  const py::list items = array.attr("ravel")().attr("tolist")();
  for (const py::handle item : items) {
    if (!py::isinstance<py::str>(item) && !py::isinstance<py::bytes>(item)) {
      raise_signature("input '" + name + "': expected strings, got an element of type " +
                      std::string(py::str(py::type::of(item).attr("__name__"))));
    }
    elements.push_back(item.cast<std::string>());
  }
  const std::vector<std::int64_t> shape(array.shape(), array.shape() + array.ndim());
  Result<Value> value = Value::strings(shape, elements);
  if (!value.ok()) raise(value.status().with_context("input '" + name + "'"));
  return std::move(value).value();
}

Value tensor_value(py::handle object, DType expected, const std::string& name, py::handle slow_path, Inputs& inputs) {
  py::array array = as_array(object, expected, name, slow_path);
  DType dtype = dtype_of(array.dtype().num());
  if (dtype == EB_DTYPE_UNDEFINED) {
    raise_signature("input '" + name + "': expected dtype " + dtype_name(expected) + ", got " +
                    std::string(py::str(array.dtype())));
  }
  if (dtype == EB_STRING && expected == EB_STRING) return string_value(array, name);
  if (dtype == EB_STRING) {
    raise_signature("input '" + name + "': expected dtype " + dtype_name(expected) + ", got " +
                    std::string(py::str(array.dtype())));
  }
  // Raw forms: the carrier, and int8 for the signed types below a byte (as edgebuild.bundle.values decodes them).
  const bool small_signed = expected == EB_INT4 || expected == EB_INT2;
  if (dtype == carrier_of(expected) || (small_signed && dtype == EB_INT8)) dtype = expected;
  const void* data = array.data();
  auto bytes = static_cast<std::size_t>(array.nbytes());
  if (is_sub_byte(dtype)) {
    inputs.packed.push_back(pack({static_cast<const std::byte*>(data), bytes}, dtype_bits(dtype)));
    data = inputs.packed.back().data();
    bytes = inputs.packed.back().size();
  }
  std::int64_t shape[EB_MAX_RANK] = {};
  const auto rank = static_cast<std::size_t>(array.ndim());
  if (rank > EB_MAX_RANK)
    raise_signature("input '" + name + "': has " + std::to_string(rank) + " dimensions; at most 16");
  for (std::size_t i = 0; i < rank; ++i) shape[i] = array.shape(static_cast<py::ssize_t>(i));
  // A dtype or shape that is wrong is for the runner to say: it names what the model expects.
  Result<Value> value = Value::view(dtype, std::span<const std::int64_t>(shape, rank), data, bytes);
  if (!value.ok()) raise(value.status().with_context("input '" + name + "'"));
  inputs.owners.push_back(std::move(array));
  return std::move(value).value();
}

}  // namespace

Value value_from_python(py::handle object, const TypeSpec& type, const std::string& name, py::handle slow_path,
                        Inputs& inputs) {
  switch (type.kind) {
    case EB_KIND_OPTIONAL:
      return object.is_none() ? Value() : value_from_python(object, *type.element, name, slow_path, inputs);
    case EB_KIND_SEQUENCE: {
      if (!PyList_Check(object.ptr()) && !PyTuple_Check(object.ptr())) {
        raise_signature("input '" + name + "': expected a list or tuple (" + to_string(type) + "), got " +
                        std::string(py::str(py::type::of(object).attr("__name__"))));
      }
      std::vector<Value> items;
      for (const py::handle item : py::reinterpret_borrow<py::sequence>(object)) {
        std::string item_name = name;
        item_name.append("[").append(std::to_string(items.size())).append("]");
        items.push_back(value_from_python(item, *type.element, item_name, slow_path, inputs));
      }
      return Value::sequence(std::move(items),
                             type.element->kind == EB_KIND_TENSOR ? type.element->dtype : EB_DTYPE_UNDEFINED);
    }
    default:
      if (object.is_none()) raise_signature("input '" + name + "': expected " + to_string(type) + ", got None");
      return tensor_value(object, type.dtype, name, slow_path, inputs);
  }
}

}  // namespace edgebuild::python
