#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "convert.hpp"
#include "dtypes.hpp"
#include "errors.hpp"
#include "images.hpp"
#include "register.hpp"
#include "runner/preprocess.hpp"

namespace py = pybind11;

namespace edgebuild::python {
namespace {

using preprocess::Channels;
using preprocess::ImageSpec;
using preprocess::Interpolation;
using preprocess::Layout;
using preprocess::Size;
using Pair = std::pair<std::int64_t, std::int64_t>;

std::size_t index_of(const char* field, const std::string& value, std::initializer_list<const char*> choices) {
  std::size_t index = 0;
  for (const char* choice : choices) {
    if (value == choice) return index;
    ++index;
  }
  raise(Status(Code::kInvalidArgument, "preprocessing: " + std::string(field) + ": unknown value '" + value + "'"));
}

std::array<double, 3> per_channel(const char* field, const std::vector<double>& values, std::size_t count) {
  if (values.size() != count) {
    raise(Status(Code::kInvalidArgument, "preprocessing: " + std::string(field) + ": expected " +
                                             std::to_string(count) + " numbers, got " + std::to_string(values.size())));
  }
  std::array<double, 3> made{};
  std::copy(values.begin(), values.end(), made.begin());
  return made;
}

std::optional<Size> size_of(const std::optional<Pair>& pair) {
  return pair ? std::optional<Size>(Size{pair->first, pair->second}) : std::nullopt;
}

py::array preprocess_array(const py::array& images, std::int64_t resize_shorter, const std::optional<Pair>& resize,
                           const std::optional<Pair>& crop, const std::string& interpolation,
                           const std::string& channels, const std::string& layout, const std::string& dtype,
                           double scale, const std::vector<double>& mean, const std::vector<double>& std) {
  ImageSpec spec;
  spec.resize_shorter = resize_shorter;
  spec.resize = size_of(resize);
  spec.crop = size_of(crop);
  spec.interpolation = static_cast<Interpolation>(index_of("interpolation", interpolation, {"bilinear", "bicubic"}));
  spec.channels = static_cast<Channels>(index_of("channels", channels, {"rgb", "bgr", "gray"}));
  spec.layout = static_cast<Layout>(index_of("layout", layout, {"nchw", "nhwc"}));
  spec.dtype = dtype_from_name(dtype).value_or(EB_DTYPE_UNDEFINED);
  spec.scale = scale;
  spec.mean = per_channel("mean", mean, channel_count(spec));
  spec.std = per_channel("std", std, channel_count(spec));
  return array_of_images(images, [&](const Value& value) { return runner::preprocess_images(spec, value.raw()); });
}

}  // namespace

py::array array_of_images(const py::array& images, const std::function<Result<Value>(const Value&)>& make) {
  py::array array = py::module_::import("numpy").attr("ascontiguousarray")(images);
  const DType dtype = dtype_of(array.dtype().num());
  if (dtype != EB_UINT8) {
    raise(Status(Code::kInvalidArgument,
                 "preprocessing: expected decoded images as uint8, got " + std::string(py::str(array.dtype()))));
  }
  const std::vector<std::int64_t> shape(array.shape(), array.shape() + array.ndim());
  Result<Value> view = Value::view(dtype, shape, array.data(), static_cast<std::size_t>(array.nbytes()));
  raise_if_error(view.status());
  const auto made = [&] {
    const py::gil_scoped_release unlocked;
    return make(view.value());
  };
  Result<Value> result = made();
  raise_if_error(result.status());
  return py::reinterpret_steal<py::array>(python_from_value(std::move(result).value(), nullptr).release());
}

void register_preprocess(py::module_& module) {
  module.def("preprocess", &preprocess_array, py::arg("images"), py::kw_only(), py::arg("resize_shorter"),
             py::arg("resize"), py::arg("crop"), py::arg("interpolation"), py::arg("channels"), py::arg("layout"),
             py::arg("dtype"), py::arg("scale"), py::arg("mean"), py::arg("std"));
}

}  // namespace edgebuild::python
