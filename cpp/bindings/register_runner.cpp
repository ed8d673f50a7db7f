#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>

#include "convert.hpp"
#include "dtypes.hpp"
#include "errors.hpp"
#include "images.hpp"
#include "register.hpp"
#include "runner/tuning.hpp"
#include "signature_json.hpp"

namespace py = pybind11;

namespace edgebuild::python {
namespace {

std::string names_of(const std::vector<ValueSpec>& specs) {
  std::string names;
  for (const ValueSpec& spec : specs) names.append(names.empty() ? "'" : ", '").append(spec.name).append("'");
  return names.empty() ? "none" : names;
}

// A Runner that Python shares: `close` drops this reference, arrays over its outputs may hold others.
class PyRunner {
 public:
  PyRunner(const std::string& path, const LoadOptions& options, py::object slow_path)
      : slow_path_(std::move(slow_path)) {
    const auto load = [&] {
      const py::gil_scoped_release unlocked;
      return Runner::load(path, options);
    };
    Result<Runner> loaded = load();
    raise_if_error(loaded.status());
    runner_ = std::make_shared<Runner>(std::move(loaded).value());
    for (const ValueSpec& spec : runner_->signature().inputs) input_names_.push_back(interned(spec.name));
    for (const ValueSpec& spec : runner_->signature().outputs) output_names_.push_back(interned(spec.name));
  }

  [[nodiscard]] const Runner& runner() const { return *open(); }

  void close() { runner_.reset(); }

  [[nodiscard]] bool keeps_state() const { return open()->keeps_state(); }

  void reset() {
    const std::shared_ptr<Runner> runner = open();
    Status status;
    {
      const py::gil_scoped_release unlocked;
      status = runner->reset();
    }
    raise_if_error(status);
  }

  [[nodiscard]] std::string signature_json() const {
    JsonWriter json;
    write_signature(json, open()->signature());
    return json.text();
  }

  py::dict run(const py::dict& inputs, std::optional<double> deadline, const std::optional<py::dict>& out, bool profile,
               Cancellation* cancellation) {
    const std::shared_ptr<Runner> runner = open();  // stays, whoever calls close() in the meantime
    const Signature& signature = runner->signature();
    Inputs converted;
    take_inputs(inputs, signature, converted);
    std::vector<Value> outputs(signature.outputs.size());
    if (out) bind_outputs(*out, signature, outputs);
    RunOptions options;
    options.profile = profile;
    options.cancellation = cancellation;  // the caller's argument, so it lives as long as this call
    if (deadline) {
      if (!(*deadline > 0.0)) raise(Status(Code::kUsage, "deadline: expected a number of seconds above 0"));
      const auto limit = static_cast<std::int64_t>(std::min(*deadline, 1e9) * 1e9);
      options.deadline = std::chrono::steady_clock::now() + std::chrono::nanoseconds(limit);
    }
    Status status;
    {
      const py::gil_scoped_release unlocked;
      status = runner->run(converted.values, outputs, options);
    }
    raise_if_error(status);
    py::dict results;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const py::object bound = out ? get(*out, output_names_[i]) : py::object();
      py::object result =
          bound ? checked(bound, outputs[i], signature.outputs[i]) : python_from_value(std::move(outputs[i]), runner);
      if (PyDict_SetItem(results.ptr(), output_names_[i].ptr(), result.ptr()) != 0) throw py::error_already_set();
    }
    return results;
  }

  [[nodiscard]] py::array preprocess(const std::string& name, const py::array& images) const {
    const std::shared_ptr<Runner> runner = open();
    return array_of_images(images, [&](const Value& value) { return runner->preprocess(name, value); });
  }

  [[nodiscard]] py::list profile() const {
    Result<std::vector<ProfileEntry>> entries = open()->profile();
    raise_if_error(entries.status());
    py::list result;
    for (const ProfileEntry& entry : entries.value()) {
      result.append(py::make_tuple(entry.node, entry.op_type, entry.provider, entry.duration_ns, entry.calls));
    }
    return result;
  }

 private:
  static py::object interned(const std::string& name) {
    PyObject* text = py::str(name).release().ptr();
    PyUnicode_InternInPlace(&text);
    return py::reinterpret_steal<py::object>(text);
  }

  // The dictionary's value, or a null object.
  static py::object get(const py::dict& dictionary, const py::object& key) {
    PyObject* value = PyDict_GetItemWithError(dictionary.ptr(), key.ptr());
    if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    return py::reinterpret_borrow<py::object>(value);
  }

  [[nodiscard]] std::shared_ptr<Runner> open() const {
    if (!runner_) raise(Status(Code::kUsage, "this Runner is closed"));
    return runner_;
  }

  void take_inputs(const py::dict& inputs, const Signature& signature, Inputs& converted) const {
    const std::size_t count = signature.inputs.size();
    converted.values.reserve(count);
    converted.owners.reserve(count);
    std::size_t taken = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const ValueSpec& spec = signature.inputs[i];
      const py::object object = get(inputs, input_names_[i]);
      if (object) {
        ++taken;
        converted.values.push_back(value_from_python(object, spec.type, spec.name, slow_path_, converted));
      } else if (spec.type.kind == EB_KIND_OPTIONAL) {
        converted.values.emplace_back();
      } else {
        std::string message = "input '" + spec.name + "' is missing; expected " + to_string(spec.type);
        const std::string extra = unexpected(inputs, input_names_);
        if (!extra.empty()) message.append("; unexpected: ").append(extra);
        raise(Status(Code::kInvalidArgument, message));
      }
    }
    if (taken == inputs.size()) return;
    raise(Status(Code::kInvalidArgument, "unexpected input " + unexpected(inputs, input_names_) + "; the model takes " +
                                             names_of(signature.inputs)));
  }

  static std::string unexpected(const py::dict& given, const std::vector<py::object>& names) {
    std::string text;
    for (const auto& [key, value] : given) {
      bool known = false;
      for (const py::object& name : names) known = known || key.equal(name);
      if (!known) text.append(text.empty() ? "" : ", ").append(std::string(py::repr(key)));
    }
    return text;
  }

  void bind_outputs(const py::dict& out, const Signature& signature, std::vector<Value>& outputs) const {
    if (const std::string extra = unexpected(out, output_names_); !extra.empty()) {
      raise(Status(Code::kInvalidArgument,
                   "unexpected output " + extra + " in out; the model gives " + names_of(signature.outputs)));
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const py::object object = get(out, output_names_[i]);
      if (!object) continue;
      const ValueSpec& spec = signature.outputs[i];
      const auto refuse = [&](const std::string& what) {
        raise(Status(Code::kInvalidArgument, "out['" + spec.name + "']: " + what));
      };
      if (!py::isinstance<py::array>(object)) refuse("expected a numpy array");
      auto array = py::reinterpret_borrow<py::array>(object);
      const DType dtype = dtype_of(array.dtype().num());
      const bool usable =
          spec.type.kind == EB_KIND_TENSOR && spec.type.dtype != EB_STRING && !is_sub_byte(spec.type.dtype);
      if (!usable) refuse("only tensors of whole bytes can be bound, this output is " + to_string(spec.type));
      if (dtype != spec.type.dtype && dtype != carrier_of(spec.type.dtype)) {
        refuse("expected dtype " + std::string(dtype_name(spec.type.dtype)) + ", got " +
               std::string(py::str(array.dtype())));
      }
      constexpr int kFlags = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                             py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
      if ((array.flags() & kFlags) != kFlags) refuse("expected a writeable, C-contiguous, aligned array");
      if (array.dtype().byteorder() == '>') refuse("expected the machine's own byte order");
      outputs[i] = Value::bound(array.mutable_data(), static_cast<std::size_t>(array.nbytes()));
    }
  }

  // The caller's array, if the result has just its shape.
  static py::object checked(const py::object& bound, const Value& value, const ValueSpec& spec) {
    const auto array = py::reinterpret_borrow<py::array>(bound);
    bool same = static_cast<std::size_t>(array.ndim()) == value.shape().size();
    for (std::size_t i = 0; same && i < value.shape().size(); ++i) {
      same = array.shape(static_cast<py::ssize_t>(i)) == value.shape()[i];
    }
    if (same) return bound;
    std::string shape;
    for (const std::int64_t size : value.shape()) shape.append(shape.empty() ? "" : ",").append(std::to_string(size));
    raise(Status(Code::kInvalidArgument, "out['" + spec.name + "']: expected the result's shape (" + shape + "), got " +
                                             std::string(py::str(array.attr("shape")))));
  }

  std::shared_ptr<Runner> runner_;
  py::object slow_path_;
  std::vector<py::object> input_names_;
  std::vector<py::object> output_names_;
};

std::unique_ptr<PyRunner> make_runner(const std::string& path, const std::string& backend, const std::string& variant,
                                      bool fallback, const std::map<std::string, std::string>& options,
                                      const std::string& runtime_path, const std::string& state_dir,
                                      const std::string& cache_dir, bool tuning,
                                      const std::map<std::string, std::pair<std::string, std::string>>& engine_folders,
                                      py::object slow_path) {
  LoadOptions load;
  load.backend = backend;
  load.variant = variant;
  load.allow_fallback = fallback;
  load.options = options;
  load.runtime_path = runtime_path;
  load.state_dir = state_dir;
  load.cache_dir = cache_dir;
  load.tuning = tuning;
  for (const auto& [name, folder] : engine_folders) load.engine_folders[name] = {folder.first, folder.second};
  return std::make_unique<PyRunner>(path, load, std::move(slow_path));
}

}  // namespace

void register_runner(py::module_& module) {
  // cancel() waits for the runs that it stops, and they come back without the GIL.
  py::class_<Cancellation>(module, "Cancellation")
      .def(py::init())
      .def("cancel", &Cancellation::cancel, py::call_guard<py::gil_scoped_release>())
      .def("reset", &Cancellation::reset, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("cancelled", &Cancellation::cancelled);
  py::class_<PyRunner>(module, "Runner")
      .def(py::init(&make_runner), py::arg("path"), py::kw_only(), py::arg("backend"), py::arg("variant"),
           py::arg("fallback"), py::arg("options"), py::arg("runtime_path"), py::arg("state_dir"), py::arg("cache_dir"),
           py::arg("tuning") = true,
           py::arg("engine_folders") = std::map<std::string, std::pair<std::string, std::string>>(),
           py::arg("slow_path"))
      .def_property_readonly("signature_json", &PyRunner::signature_json)
      .def_property_readonly("variant", [](const PyRunner& self) { return self.runner().variant_name(); })
      .def_property_readonly("backend", [](const PyRunner& self) { return self.runner().backend_name(); })
      .def_property_readonly("engine_version", [](const PyRunner& self) { return self.runner().engine_version(); })
      .def_property_readonly("bundle_id", [](const PyRunner& self) { return self.runner().bundle_id(); })
      .def_property_readonly("variant_order", [](const PyRunner& self) { return self.runner().variant_order(); })
      .def_property_readonly("passed_over",
                             [](const PyRunner& self) {
                               py::list result;
                               for (const PassedOver& passed : self.runner().passed_over()) {
                                 result.append(py::make_tuple(passed.variant, passed.reason));
                               }
                               return result;
                             })
      .def("run", &PyRunner::run, py::arg("inputs"), py::arg("deadline"), py::arg("out"), py::arg("profile"),
           py::arg("cancellation") = nullptr)
      .def("preprocess", &PyRunner::preprocess, py::arg("name"), py::arg("images"))
      .def_property_readonly("keeps_state", &PyRunner::keeps_state)
      .def("reset", &PyRunner::reset)
      .def("profile", &PyRunner::profile)
      .def("close", &PyRunner::close);
  module.def(
      "variant_order",
      [](const std::string& bundle_id, const std::string& arch, const std::vector<std::string>& names,
         const std::string& state_dir, unsigned threads, bool tuning) {
        const runner::VariantOrder order = runner::variant_order({bundle_id, arch, names, state_dir, threads, tuning});
        std::vector<std::string> ordered;
        for (const std::size_t index : order.indices) ordered.push_back(names[index]);
        return py::make_tuple(ordered, order.tuning.has_value(), order.why);
      },
      py::kw_only(), py::arg("bundle_id"), py::arg("arch"), py::arg("names"), py::arg("state_dir"), py::arg("threads"),
      py::arg("tuning"));
}

}  // namespace edgebuild::python
