// The LibTorch backend's objects. Linked with LibTorch, whose libraries the host has loaded before this plugin.

#ifndef EDGEBUILD_BACKENDS_LIBTORCH_LIBTORCH_HPP_
#define EDGEBUILD_BACKENDS_LIBTORCH_LIBTORCH_HPP_

#include <torch/csrc/jit/api/module.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/plugin.hpp"
#include "libtorch/compiled.hpp"

namespace edgebuild::libtorch {

/// The engine of this process.
class Backend {
 public:
  /// @return EB_INCOMPATIBLE, naming both versions: the library is not of the version that this plugin was built with,
  ///         or not of the one that the bundle pins.
  static eb_status* create(const eb_host_api& host, const eb_backend_config& config, Backend** out);

  [[nodiscard]] const eb_host_api& host() const noexcept { return *host_; }
  [[nodiscard]] const std::string& version() const noexcept { return version_; }

 private:
  explicit Backend(const eb_host_api& host) noexcept : host_(&host) {}

  const eb_host_api* host_;
  std::string version_;
};

/// An argument of the model's `forward`.
struct Argument {
  std::string name;
  bool sequence = false;  ///< A list of tensors.
  bool optional = false;
  bool written = false;  ///< `forward` may write into it, so the caller's bytes must be copied.
  c10::IValue absent;    ///< Its default; None for an optional without one.
  bool may_be_absent = false;
};

/// A loaded module. Shared by contexts; runs at once are the engine's own business.
class Model {
 public:
  static eb_status* load(Backend& backend, const eb_model_config& config, Model** out);

  [[nodiscard]] Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] const eb_host_api& host() const noexcept { return backend_.host(); }
  /// Nothing if it was compiled.
  [[nodiscard]] const std::optional<torch::jit::Module>& module() const noexcept { return module_; }
  /// Only with a module.
  [[nodiscard]] torch::jit::Function& forward() const noexcept { return *forward_; }
  /// Null with a module.
  [[nodiscard]] Compiled* compiled() const noexcept { return compiled_.get(); }
  [[nodiscard]] const std::vector<Argument>& arguments() const noexcept { return arguments_; }
  /// For each input of the signature its argument; nothing if `forward` has no such argument.
  [[nodiscard]] const std::vector<std::optional<std::size_t>>& inputs() const noexcept { return inputs_; }
  /// For each output of the signature its place among the tensors that `forward` returns, depth first.
  [[nodiscard]] const std::vector<std::size_t>& outputs() const noexcept { return outputs_; }
  [[nodiscard]] const std::vector<std::string>& input_names() const noexcept { return input_names_; }
  [[nodiscard]] const std::vector<std::string>& output_names() const noexcept { return output_names_; }
  /// Threads of one operator; 0: LibTorch's own choice.
  [[nodiscard]] int threads() const noexcept { return threads_; }
  /// Whether `forward` may leave something behind in the module. Then each context runs a copy of its own, and this one
  /// stays as it was loaded.
  [[nodiscard]] bool keeps_state() const noexcept { return keeps_state_; }

 private:
  explicit Model(Backend& backend) noexcept : backend_(backend) {}
  eb_status* read_options(const eb_model_config& config);
  eb_status* load_module(const eb_file& file);
  eb_status* load_compiled(const eb_model_config& config);
  eb_status* read_arguments();
  eb_status* match_inputs(const eb_model_config& config);
  eb_status* match_outputs(const eb_model_config& config);

  Backend& backend_;
  std::optional<torch::jit::Module> module_;
  std::unique_ptr<Compiled> compiled_;
  torch::jit::Function* forward_ = nullptr;
  std::vector<Argument> arguments_;
  std::vector<std::optional<std::size_t>> inputs_;
  std::vector<std::size_t> outputs_;
  std::vector<std::string> input_names_;
  std::vector<std::string> output_names_;
  int threads_ = 0;
  bool keeps_state_ = false;
  bool optimize_ = true;
};

/// What one caller needs: the stack that `forward` is called with, and views of the buffers it was given last.
class Context {
 public:
  explicit Context(Model& model);

  [[nodiscard]] const eb_host_api& host() const noexcept { return model_.host(); }
  eb_status* run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                 const eb_run_options* options);

 private:
  /// A view of a caller's buffer, made anew only if pointer, dtype or shape differ.
  struct View {
    at::Tensor tensor;
    eb_value seen{};
  };
  eb_status* fill_stack(const eb_value* inputs);
  eb_status* run_module();
  eb_status* run_compiled();
  eb_status* give_outputs(eb_value* outputs);
  eb_status* prepare_output(std::size_t index, const eb_value& wanted, std::string* too_small);

  Model& model_;
  std::optional<torch::jit::Module> module_;  // The model's own, or a copy that keeps this context's state.
  std::vector<View> views_;                   // By input.
  std::vector<c10::IValue> stack_;
  std::vector<at::Tensor> results_;  // All tensors that `forward` returned.
  std::vector<at::Tensor> chosen_;   // By output.
  std::vector<eb_value> scratch_;
};

/// LibTorch's number of a dtype; Undefined if it has none.
[[nodiscard]] c10::ScalarType to_engine(std::uint32_t dtype) noexcept;
[[nodiscard]] eb_dtype from_engine(c10::ScalarType type) noexcept;

/// A view of a caller's tensor: nothing is copied, and nothing is kept alive. EB_UNSUPPORTED for a dtype or device that
/// LibTorch's CPU kernels do not take.
eb_status* view_tensor(const eb_host_api& host, const std::string& name, const eb_value& value, at::Tensor* out);
/// Dtype, rank, shape and byte size of a tensor, as an eb_value without data. EB_UNSUPPORTED for what has no form
/// there.
eb_status* describe_tensor(const eb_host_api& host, const std::string& name, const at::Tensor& tensor, eb_value* out);
/// Appends the tensors in a value, depth first through tuples, lists and dicts. EB_UNSUPPORTED for anything but tensors
/// and constants, which are passed over.
eb_status* flatten(const eb_host_api& host, const c10::IValue& value, std::vector<at::Tensor>* out);

/// The exception in flight as a status of one line. `what` begins the message; `fallback` is for those that say little.
[[nodiscard]] eb_status* current_failure(const eb_host_api& host, std::string_view what, eb_code fallback) noexcept;

/// Calls `body` (which returns an eb_status*) and turns an exception into a status.
template <typename Body>
eb_status* guard(const eb_host_api& host, std::string_view what, Body&& body, eb_code fallback = EB_INTERNAL) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return current_failure(host, what, fallback);
  }
}

}  // namespace edgebuild::libtorch

#endif  // EDGEBUILD_BACKENDS_LIBTORCH_LIBTORCH_HPP_
