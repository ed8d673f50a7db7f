// The ONNX Runtime backend's objects. The engine is reached through its C API alone, from a library opened at run time.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_ORT_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_ORT_HPP_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/plugin.hpp"
#include "onnxruntime/onnxruntime_c_api.h"
#include "onnxruntime/watchdog.hpp"

namespace edgebuild::onnxruntime {

/// Owns one of the engine's objects.
template <typename T>
class Handle {
 public:
  using Release = void (*)(T*);
  Handle() noexcept = default;
  Handle(T* object, Release release) noexcept : object_(object), release_(release) {}
  Handle(Handle&& other) noexcept : object_(std::exchange(other.object_, nullptr)), release_(other.release_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      object_ = std::exchange(other.object_, nullptr);
      release_ = other.release_;
    }
    return *this;
  }
  ~Handle() { reset(); }
  void reset() noexcept {
    if (object_ != nullptr) release_(std::exchange(object_, nullptr));
  }
  [[nodiscard]] T* get() const noexcept { return object_; }
  explicit operator bool() const noexcept { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
  Release release_ = nullptr;
};

/// The engine, opened.
class Backend {
 public:
  /// Opens the library that `config` names and compares its version with the pinned one.
  /// @return EB_USAGE (no library named); EB_NOT_FOUND (it can't be opened); EB_INCOMPATIBLE (naming both versions).
  static eb_status* create(const eb_host_api& host, const eb_backend_config& config, Backend** out);
  ~Backend();

  [[nodiscard]] const eb_host_api& host() const noexcept { return *host_; }
  [[nodiscard]] const OrtApi& api() const noexcept { return *api_; }
  [[nodiscard]] OrtEnv* env() const noexcept { return env_; }
  [[nodiscard]] const OrtMemoryInfo* cpu() const noexcept { return cpu_; }
  /// edgebuild's own operators, for every session.
  [[nodiscard]] OrtCustomOpDomain* operators() const noexcept { return operators_; }
  [[nodiscard]] OrtAllocator* allocator() const noexcept { return allocator_; }
  [[nodiscard]] const std::string& version() const noexcept { return version_; }
  [[nodiscard]] Watchdog& watchdog() noexcept { return watchdog_; }

  /// The engine's status as the host's (NULL for success), and frees it. `what` begins the message.
  [[nodiscard]] eb_status* take(OrtStatus* status, std::string_view what, eb_code fallback = EB_INTERNAL) const;
  /// The same; the message begins with the input's or output's name. Only a failure makes a string.
  [[nodiscard]] eb_status* take(OrtStatus* status, const char* noun, const std::string& name) const {
    return status == nullptr ? nullptr : take(status, std::string(noun) + " '" + name + "'");
  }
  /// Frees the engine's status, unread.
  void discard(OrtStatus* status) const noexcept {
    if (status != nullptr) api_->ReleaseStatus(status);
  }

  template <typename T>
  [[nodiscard]] Handle<T> own(T* object, void (*release)(T*)) const noexcept {
    return Handle<T>(object, release);
  }

 private:
  Backend(const eb_host_api& host) noexcept : host_(&host) {}

  const eb_host_api* host_;
  const OrtApi* api_ = nullptr;
  OrtEnv* env_ = nullptr;
  OrtMemoryInfo* cpu_ = nullptr;
  OrtCustomOpDomain* operators_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
  std::string version_;
  Watchdog watchdog_;
};

/// The host's code for one of the engine's; `fallback` for those that say little.
[[nodiscard]] eb_code code_of(OrtErrorCode code, eb_code fallback) noexcept;

/// One input or output of the session.
struct Port {
  std::string name;
  eb_kind kind = EB_KIND_TENSOR;
  eb_dtype dtype = EB_DTYPE_UNDEFINED;
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  bool optional = false;
  std::int32_t rank = -1;
  std::array<std::int64_t, EB_MAX_RANK> shape{};
  std::array<std::string, EB_MAX_RANK> symbols;  ///< The model's names of dynamic axes; empty where it gives none.
  bool may_be_absent = false;                    ///< An optional, or an initialiser that an input may override.
  bool used = true;                              ///< false: the graph has no such input.
};

/// A session and what is known about it. Immutable but for `volatile_outputs`.
class Model {
 public:
  static eb_status* load(Backend& backend, const eb_model_config& config, Model** out);
  ~Model();

  [[nodiscard]] Backend& backend() const noexcept { return backend_; }
  [[nodiscard]] OrtSession* session() const noexcept { return session_.get(); }
  [[nodiscard]] const std::vector<Port>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<Port>& outputs() const noexcept { return outputs_; }

  /// Makes a session like this model's that writes a profile, the file's name beginning with `prefix`.
  eb_status* profiling_session(const std::string& prefix, Handle<OrtSession>* out) const;

  /// Whether output `index` may change its shape while the inputs' shapes stay: the model does not declare each axis as
  /// fixed or as an axis of an input, or it was seen to change. Such an output can't be bound ahead of a run, because
  /// the engine refuses a buffer of another shape.
  [[nodiscard]] bool is_volatile(std::size_t index) const noexcept {
    return volatile_outputs_[index].load(std::memory_order_relaxed);
  }
  void set_volatile(std::size_t index) noexcept { volatile_outputs_[index].store(true, std::memory_order_relaxed); }

  /// An empty sequence, which the engine's C API can't make from nothing. The caller releases `*out`.
  eb_status* empty_sequence(const Port& port, OrtValue** out) const;

 private:
  explicit Model(Backend& backend) noexcept : backend_(backend) {}
  eb_status* describe(const eb_model_config& config);

  Backend& backend_;
  std::vector<eb_file> files_;
  std::vector<std::string> file_paths_;
  std::map<std::string, std::string> options_;
  Handle<OrtSession> session_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  std::unique_ptr<std::atomic<bool>[]> volatile_outputs_;
  mutable std::mutex empty_mutex_;
  mutable std::map<eb_dtype, Handle<OrtSession>> empty_sessions_;  // By the elements' dtype; made when first needed.
};

/// Makes a session from files in memory. `profile_prefix` NULL: no profile.
eb_status* create_session(const Backend& backend, const std::vector<eb_file>& files,
                          const std::map<std::string, std::string>& options, const char* profile_prefix,
                          Handle<OrtSession>* out);
/// Checks names and values of the options. @return EB_USAGE, naming the option and what is allowed.
eb_status* check_options(const Backend& backend, const std::map<std::string, std::string>& options);

/// The engine's number of a dtype; UNDEFINED if it has none.
ONNXTensorElementDataType to_engine(eb_dtype dtype) noexcept;
eb_dtype from_engine(ONNXTensorElementDataType element) noexcept;

/// A view of a caller's value for the engine (strings and sequences are copied). The caller releases `*out`.
eb_status* make_value(const Model& model, const Port& port, const eb_value& value, OrtValue** out);
/// A value of the engine's, handed to the caller with the duty to release. Takes over `value`, also on failure.
eb_status* export_value(const Backend& backend, const Port& port, OrtValue* value, eb_value* out);
/// The engine's tensor seen through an eb_value that owns nothing. Not for strings.
eb_status* view_tensor(const Backend& backend, const Port& port, OrtValue* value, eb_value* out);

/// Bytes of a tensor that the engine holds; its own arithmetic has already been checked.
std::uint64_t tensor_bytes(eb_dtype dtype, std::uint64_t count) noexcept;

}  // namespace edgebuild::onnxruntime

/// Returns from the enclosing function if `expression` (an OrtStatus*) is an error.
#define EDGEBUILD_ORT_TRY(expression)                                                \
  do {                                                                               \
    if (OrtStatus* edgebuild_ort_status = (expression)) return edgebuild_ort_status; \
  } while (false)

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_ORT_HPP_
