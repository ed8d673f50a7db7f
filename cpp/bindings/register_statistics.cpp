#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "dtypes.hpp"
#include "errors.hpp"
#include "register.hpp"
#include "statistics/channel_statistics.hpp"
#include "statistics/elements.hpp"
#include "statistics/histogram.hpp"
#include "statistics/quantization_error.hpp"

namespace py = pybind11;

namespace edgebuild::python {
namespace {

using statistics::ChannelStatistics;
using statistics::Histogram;

// A C-contiguous, aligned array in the machine's byte order and its dtype: the given one, or a copy of what is neither.
struct Elements {
  explicit Elements(const py::array& given) : array(given), dtype(dtype_of(given.dtype().num())) {
    if (!statistics::is_supported(dtype)) {
      raise(Status(Code::kInvalidArgument,
                   "statistics: expected an array of bool, integers or floats of 16 to 64 bits, got " +
                       std::string(py::str(given.dtype()))));
    }
    constexpr int kFlags = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array.flags() & kFlags) != kFlags || array.dtype().byteorder() == '>') {
      array = py::module_::import("numpy").attr("require")(array, array.dtype().attr("newbyteorder")("="),
                                                           py::make_tuple("C", "A"));
    }
  }

  py::array array;
  DType dtype;
};

// Python's threads may share one; the GIL is not held while values are counted.
template <typename T>
struct Guarded {
  explicit Guarded(T made) : value(std::move(made)) {}
  T value;
  std::mutex mutex;
};

using PyHistogram = Guarded<Histogram>;
using PyChannels = Guarded<ChannelStatistics>;

std::unique_ptr<PyHistogram> make_histogram() {
  Result<Histogram> made = Histogram::make();
  raise_if_error(made.status());
  return std::make_unique<PyHistogram>(std::move(made).value());
}

std::optional<std::size_t> add_to_histogram(PyHistogram& self, const py::array& array) {
  const Elements elements(array);
  const void* const data = elements.array.data();
  const auto count = static_cast<std::size_t>(elements.array.size());
  std::optional<std::size_t> first;
  Status status;
  {
    const py::gil_scoped_release unlocked;
    const std::lock_guard lock(self.mutex);
    status = self.value.add(elements.dtype, data, count, &first);
  }
  raise_if_error(status);
  return first;
}

py::tuple bins_of(PyHistogram& self) {
  std::vector<Histogram::Bin> bins;
  {
    const py::gil_scoped_release unlocked;
    const std::lock_guard lock(self.mutex);
    bins = self.value.bins();
  }
  py::array_t<std::uint16_t> keys(static_cast<py::ssize_t>(bins.size()));
  py::array_t<std::uint64_t> counts(static_cast<py::ssize_t>(bins.size()));
  for (std::size_t i = 0; i < bins.size(); ++i) {
    keys.mutable_data()[i] = bins[i].key;
    counts.mutable_data()[i] = bins[i].count;
  }
  return py::make_tuple(keys, counts);
}

// Both locked without the GIL, in one step: two threads may merge a and b into each other.
template <typename T>
void merge(Guarded<T>& self, Guarded<T>& other) {
  if (&self == &other) raise(Status(Code::kInvalidArgument, "statistics can't be merged into themselves"));
  Status status;
  {
    const py::gil_scoped_release unlocked;
    const std::scoped_lock lock(self.mutex, other.mutex);
    status = self.value.merge(other.value);
  }
  raise_if_error(status);
}

template <typename T, typename Read>
auto locked(Guarded<T>& self, Read read) {
  const py::gil_scoped_release unlocked;
  const std::lock_guard lock(self.mutex);
  return read(self.value);
}

void add_to_channels(PyChannels& self, const py::array& array) {
  const Elements elements(array);
  const void* const data = elements.array.data();
  const std::vector<std::int64_t> shape(elements.array.shape(), elements.array.shape() + elements.array.ndim());
  Status status;
  {
    const py::gil_scoped_release unlocked;
    const std::lock_guard lock(self.mutex);
    status = self.value.add(elements.dtype, data, shape);
  }
  raise_if_error(status);
}

template <typename Read>
py::array_t<double> by_channel(PyChannels& self, Read read) {
  const std::lock_guard lock(self.mutex);
  const std::size_t channels = self.value.channels();
  py::array_t<double> result(static_cast<py::ssize_t>(channels));
  for (std::size_t c = 0; c < channels; ++c) result.mutable_data()[c] = read(self.value, c);
  return result;
}

void register_histogram(py::module_& module) {
  py::class_<PyHistogram>(module, "Histogram")
      .def(py::init(&make_histogram))
      .def("add", &add_to_histogram, py::arg("array"))
      .def("merge", &merge<Histogram>, py::arg("other"))
      .def("bins", &bins_of)
      .def_property_readonly(
          "count", [](PyHistogram& self) { return locked(self, [](const Histogram& h) { return h.count(); }); })
      .def_property_readonly(
          "not_finite",
          [](PyHistogram& self) { return locked(self, [](const Histogram& h) { return h.not_finite(); }); })
      .def_property_readonly("low",
                             [](PyHistogram& self) { return locked(self, [](const Histogram& h) { return h.low(); }); })
      .def_property_readonly(
          "high", [](PyHistogram& self) { return locked(self, [](const Histogram& h) { return h.high(); }); });
}

void register_channels(py::module_& module) {
  py::class_<PyChannels>(module, "ChannelStatistics")
      .def(py::init([](std::int64_t axis) { return std::make_unique<PyChannels>(ChannelStatistics(axis)); }),
           py::arg("axis"))
      .def("add", &add_to_channels, py::arg("array"))
      .def("merge", &merge<ChannelStatistics>, py::arg("other"))
      .def_property_readonly("axis", [](PyChannels& self) { return self.value.axis(); })
      .def_property_readonly(
          "count", [](PyChannels& self) { return locked(self, [](const ChannelStatistics& s) { return s.count(); }); })
      .def_property_readonly("low",
                             [](PyChannels& self) {
                               return by_channel(
                                   self, [](const ChannelStatistics& s, std::size_t c) { return double{s.low()[c]}; });
                             })
      .def_property_readonly("high",
                             [](PyChannels& self) {
                               return by_channel(
                                   self, [](const ChannelStatistics& s, std::size_t c) { return double{s.high()[c]}; });
                             })
      .def_property_readonly("mean",
                             [](PyChannels& self) {
                               return by_channel(self, [](const ChannelStatistics& s, std::size_t c) {
                                 return s.sum()[c] / static_cast<double>(s.count());
                               });
                             })
      .def_property_readonly("mean_square", [](PyChannels& self) {
        return by_channel(self, [](const ChannelStatistics& s, std::size_t c) {
          return s.sum_of_squares()[c] / static_cast<double>(s.count());
        });
      });
}

using Reals = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::span<const double> view(const Reals& array) { return {array.data(), static_cast<std::size_t>(array.size())}; }

Reals quantization_errors(const Reals& lower, const Reals& upper, const Reals& counts, const Reals& lows,
                          const Reals& highs, std::int64_t levels, bool symmetric) {
  if (lower.size() != counts.size() || upper.size() != counts.size() || lows.size() != highs.size() || levels < 2) {
    raise(
        Status(Code::kInvalidArgument, "quantization_errors: expected bins and ranges of one size each, and 2 levels"));
  }
  std::vector<double> errors;
  {
    const py::gil_scoped_release unlocked;
    std::vector<statistics::Quantizer> quantizers;
    for (std::size_t i = 0; i < view(lows).size(); ++i) {
      quantizers.emplace_back(view(lows)[i], view(highs)[i], levels, symmetric);
    }
    errors = statistics::squared_errors({view(lower), view(upper), view(counts)}, quantizers);
  }
  return Reals(static_cast<py::ssize_t>(errors.size()), errors.data());
}

}  // namespace

void register_statistics(py::module_& module) {
  register_histogram(module);
  register_channels(module);
  module.def("quantization_errors", &quantization_errors, py::arg("lower"), py::arg("upper"), py::arg("counts"),
             py::arg("lows"), py::arg("highs"), py::arg("levels"), py::arg("symmetric"));
}

}  // namespace edgebuild::python
