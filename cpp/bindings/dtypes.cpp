#include "dtypes.hpp"

#include <array>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace edgebuild::python {
namespace {

constexpr std::size_t kBuiltin = 24;  // NumPy's own type numbers, frozen since 1.6
constexpr std::size_t kOurs = EB_INT2 + 1;

// References are kept for as long as the process runs: a static destructor would run after the interpreter.
struct Tables {
  std::array<DType, kBuiltin> from_numpy{};
  std::array<PyObject*, kOurs> to_numpy{};
  std::vector<std::pair<int, DType>> extension;  // of ml_dtypes
  bool extension_loaded = false;
};

Tables& tables() {
  static Tables* const instance = new Tables();
  return *instance;
}

void load_extension() {
  Tables& all = tables();
  if (all.extension_loaded) return;
  all.extension_loaded = true;
  py::object package;
  try {
    package = py::module_::import("ml_dtypes");
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError)) throw;
    return;
  }
  for (unsigned number = 1; number < kOurs; ++number) {
    const auto dtype = static_cast<DType>(number);
    if (carrier_of(dtype) == EB_DTYPE_UNDEFINED || !py::hasattr(package, dtype_name(dtype))) continue;
    py::dtype descriptor = py::dtype::from_args(package.attr(dtype_name(dtype)));
    all.extension.emplace_back(descriptor.num(), dtype);
    Py_XDECREF(std::exchange(all.to_numpy[number], descriptor.release().ptr()));
  }
}

}  // namespace

DType carrier_of(DType dtype) noexcept {
  switch (dtype) {
    case EB_BFLOAT16:
      return EB_UINT16;
    case EB_FLOAT8_E4M3FN:
    case EB_FLOAT8_E4M3FNUZ:
    case EB_FLOAT8_E5M2:
    case EB_FLOAT8_E5M2FNUZ:
    case EB_FLOAT8_E8M0:
    case EB_UINT4:
    case EB_INT4:
    case EB_FLOAT4_E2M1:
    case EB_UINT2:
    case EB_INT2:
      return EB_UINT8;
    default:
      return EB_DTYPE_UNDEFINED;
  }
}

void initialise_dtypes() {
  Tables& all = tables();
  for (unsigned number = 1; number < kOurs; ++number) {
    const auto dtype = static_cast<DType>(number);
    const DType carrier = carrier_of(dtype);
    const char* name = dtype == EB_STRING ? "object" : dtype_name(carrier == EB_DTYPE_UNDEFINED ? dtype : carrier);
    py::dtype descriptor = py::dtype(std::string(name));
    all.to_numpy[number] = descriptor.release().ptr();
  }
  for (std::size_t number = 0; number < kBuiltin; ++number) {
    py::dtype descriptor(static_cast<int>(number));
    const auto size = descriptor.itemsize();
    DType& dtype = all.from_numpy[number];
    switch (descriptor.kind()) {
      case 'b':
        dtype = EB_BOOL;
        break;
      case 'i':
        dtype = size == 1 ? EB_INT8 : size == 2 ? EB_INT16 : size == 4 ? EB_INT32 : EB_INT64;
        break;
      case 'u':
        dtype = size == 1 ? EB_UINT8 : size == 2 ? EB_UINT16 : size == 4 ? EB_UINT32 : EB_UINT64;
        break;
      case 'f':  // a long double is none of ours, whatever its size
        dtype = size == 2                   ? EB_FLOAT16
                : size == 4                 ? EB_FLOAT32
                : descriptor.char_() == 'd' ? EB_FLOAT64
                                            : EB_DTYPE_UNDEFINED;
        break;
      case 'c':
        dtype = descriptor.char_() == 'F'   ? EB_COMPLEX64
                : descriptor.char_() == 'D' ? EB_COMPLEX128
                                            : EB_DTYPE_UNDEFINED;
        break;
      case 'O':
      case 'U':
      case 'S':
        dtype = EB_STRING;
        break;
      default:
        dtype = EB_DTYPE_UNDEFINED;
    }
  }
}

DType dtype_of(int type_number) {
  if (type_number >= 0 && static_cast<std::size_t>(type_number) < kBuiltin) {
    return tables().from_numpy[static_cast<std::size_t>(type_number)];
  }
  load_extension();
  for (const auto& [number, dtype] : tables().extension) {
    if (number == type_number) return dtype;
  }
  return EB_DTYPE_UNDEFINED;
}

py::handle numpy_dtype(DType dtype) {
  if (carrier_of(dtype) != EB_DTYPE_UNDEFINED) load_extension();
  return tables().to_numpy[static_cast<std::size_t>(dtype)];
}

}  // namespace edgebuild::python
