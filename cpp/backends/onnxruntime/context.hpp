// One caller's state: bound buffers, run options, and what a deadline or a cancel needs.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_CONTEXT_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_CONTEXT_HPP_

#include <cstring>

#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {

/// What `profile_read` hands out; strings stand beside the entries that point to them.
struct ProfileTable {
  struct Row {
    std::string node;
    std::string op_type;
    std::string provider;
    std::uint64_t duration_ns = 0;
    std::uint64_t calls = 0;
  };
  std::vector<Row> rows;
  std::vector<eb_profile_entry> entries;
  std::map<std::pair<std::string, std::string>, std::size_t> index;  ///< Of rows, by node and operator.

  /// Adds the events of a profile that the engine wrote. @return whether the text is such a profile.
  bool add(const std::string& json);
  /// Rebuilds `entries` from `rows`.
  void publish();
};

[[nodiscard]] inline bool same_shape(const eb_value& a, const eb_value& b) noexcept {
  return a.kind == b.kind && a.dtype == b.dtype && a.rank == b.rank &&
         std::memcmp(a.shape, b.shape, a.rank * sizeof(a.shape[0])) == 0;
}

class Context {
 public:
  static eb_status* create(Model& model, Context** out);
  ~Context();

  eb_status* run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                 const eb_run_options* options);
  eb_status* cancel();
  eb_status* profile_read(const eb_profile_entry** entries, std::size_t* count);
  [[nodiscard]] Backend& backend() const noexcept { return model_.backend(); }

 private:
  /// A buffer that the engine knows. It is made anew only if pointer, size, dtype or shape differ.
  struct Slot {
    Handle<OrtValue> value;  ///< Of an input: none if it is not bound (an absent optional).
    eb_value seen{};         ///< What `value` was made from.
  };
  /// How an output leaves the engine, and the shape that it had when the inputs had the shapes they have now.
  struct OutputSlot {
    Slot slot;
    bool to_device = false;  ///< The engine allocates.
    bool expected_valid = false;
    bool doubtful = false;  ///< A run failed with this output bound: `expected` is to be compared before it is used.
    eb_value expected{};    ///< dtype, rank, shape and byte_size only.
  };
  /// A session, and the buffers bound to it.
  struct Bindings {
    OrtSession* session = nullptr;
    Handle<OrtIoBinding> binding;
    std::vector<Slot> inputs;
    std::vector<OutputSlot> outputs;
  };
  enum class Stop { kNo, kDeadline, kCancel };

  explicit Context(Model& model) noexcept : model_(model) {}
  eb_status* make_bindings(OrtSession* session, Bindings* out);
  eb_status* bind_inputs(Bindings& bindings, const eb_value* inputs);
  void unbind_inputs(Bindings& bindings);
  eb_status* bind_outputs(Bindings& bindings, const eb_value* outputs);
  eb_status* bind_to_device(Bindings& bindings, std::size_t index);
  eb_status* execute(Bindings& bindings, const eb_value* outputs, const eb_run_options* options);
  eb_status* collect(Bindings& bindings, eb_value* outputs);
  eb_status* fetch(Bindings& bindings, eb_value* outputs);
  eb_status* copy_out(std::size_t index, OrtValue* value, OutputSlot& slot, eb_value* output, std::string* too_small);
  eb_status* run_engine(Bindings& bindings, const eb_run_options* options);
  /// Takes over the engine's status of a failed run, and says which input is at fault where that can be found out.
  eb_status* explain_failure(const Bindings& bindings, OrtStatus* status) const;
  eb_status* begin_profile();
  eb_status* end_profile();
  void stop(Stop why);

  Model& model_;
  Handle<OrtRunOptions> run_options_;
  Bindings bindings_;
  std::vector<eb_value> scratch_;

  // The profile's session: ONNX Runtime can only profile a session from its beginning to its end.
  Handle<OrtSession> profile_session_;
  std::unique_ptr<Bindings> profile_bindings_;
  ProfileTable profile_;

  std::mutex state_;
  bool running_ = false;
  Stop stop_ = Stop::kNo;
  Watchdog::Entry deadline_;
};

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_CONTEXT_HPP_
