#include "convert.hpp"
#include "dtypes.hpp"
#include "packing.hpp"

namespace py = pybind11;

namespace edgebuild::python {
namespace {

// What an array's memory hangs on. The value is released before the runner, whose engine made it.
struct Owner {
  std::shared_ptr<Runner> runner;
  Value value;
};

// One capsule a value, made when the first array needs it; items of a sequence share it.
class SharedOwner {
 public:
  SharedOwner(Value value, const std::shared_ptr<Runner>& runner)
      : owner_(std::make_unique<Owner>(Owner{runner, std::move(value)})), value_(owner_->value.raw()) {}

  [[nodiscard]] const eb_value& value() const { return value_; }

  py::handle capsule() {
    if (!capsule_) {
      capsule_ = py::capsule(owner_.get(), [](void* pointer) { delete static_cast<Owner*>(pointer); });
      static_cast<void>(owner_.release());
    }
    return capsule_;
  }

 private:
  std::unique_ptr<Owner> owner_;
  const eb_value& value_;
  py::object capsule_;
};

py::object strings(const eb_value& tensor, const std::vector<py::ssize_t>& shape) {
  py::array array(py::reinterpret_borrow<py::dtype>(numpy_dtype(EB_STRING)), shape);
  const auto* elements = static_cast<const eb_string*>(tensor.data);
  auto** slots = static_cast<PyObject**>(array.mutable_data());
  for (py::ssize_t i = 0; i < array.size(); ++i) {
    // What is not UTF-8 (a model may make it) survives as surrogates.
    PyObject* text =
        PyUnicode_DecodeUTF8(elements[i].data, static_cast<Py_ssize_t>(elements[i].size), "surrogateescape");
    if (text == nullptr) throw py::error_already_set();
    Py_XDECREF(std::exchange(slots[i], text));
  }
  return array;
}

py::object convert(const eb_value& value, SharedOwner& owner) {
  if (value.kind == EB_KIND_NONE) return py::none();
  if (value.kind == EB_KIND_SEQUENCE) {
    py::list items;
    for (std::uint64_t i = 0; i < value.item_count; ++i) items.append(convert(value.items[i], owner));
    return items;
  }
  const std::vector<py::ssize_t> shape(value.shape, value.shape + value.rank);
  const auto dtype = static_cast<DType>(value.dtype);
  if (dtype == EB_STRING) return strings(value, shape);
  const py::dtype descriptor = py::reinterpret_borrow<py::dtype>(numpy_dtype(dtype));
  if (is_sub_byte(dtype)) {
    py::array array(descriptor, shape);
    unpack(static_cast<const std::byte*>(value.data), dtype_bits(dtype),
           {static_cast<std::byte*>(array.mutable_data()), static_cast<std::size_t>(array.nbytes())});
    return array;
  }
  if (value.byte_size == 0) return py::array(descriptor, shape);
  return py::array(descriptor, shape, value.data, owner.capsule());
}

}  // namespace

py::object python_from_value(Value value, const std::shared_ptr<Runner>& runner) {
  SharedOwner owner(std::move(value), runner);
  return convert(owner.value(), owner);
}

}  // namespace edgebuild::python
