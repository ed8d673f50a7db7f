// Runner: loads a bundle and runs its model. The C++ API; edgebuild.h is the same for C.

#ifndef EDGEBUILD_RUNNER_HPP_
#define EDGEBUILD_RUNNER_HPP_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/export.h"
#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild {

/// A tensor, a sequence or nothing, as in eb_value; this class owns what must be released.
///
/// Move-only. A view (from_bytes) refers to the caller's memory; an owned value frees its own. Values that a run
/// allocated must be destroyed before the Runner that made them.
class EDGEBUILD_API Value {
 public:
  /// Nothing: an absent optional; as an output, "to be allocated by the backend".
  Value() noexcept;
  Value(Value&& other) noexcept;
  Value& operator=(Value&& other) noexcept;
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;
  ~Value();

  /// An input over the caller's memory: row-major, contiguous, `bytes` long.
  /// @return kInvalidArgument if `bytes` is not what dtype and shape need, a size is negative, or the rank is above 16.
  static Result<Value> view(DType dtype, std::span<const std::int64_t> shape, const void* data, std::size_t bytes);
  /// A bound output over the caller's memory, `capacity` bytes; a run sets dtype, shape and size.
  static Value bound(void* data, std::size_t capacity) noexcept;
  /// A tensor with memory of its own, zero-filled. Not for strings.
  static Result<Value> allocate(DType dtype, std::span<const std::int64_t> shape);
  /// A string tensor that owns copies of `elements`, row-major.
  static Result<Value> strings(std::span<const std::int64_t> shape, std::span<const std::string> elements);
  /// A sequence that owns its items.
  static Value sequence(std::vector<Value> items, DType element_dtype = EB_DTYPE_UNDEFINED);
  /// Takes over a value filled by C code, including its duty to release.
  static Value adopt(const eb_value& raw) noexcept;

  [[nodiscard]] eb_kind kind() const noexcept { return static_cast<eb_kind>(raw_.kind); }
  [[nodiscard]] DType dtype() const noexcept { return static_cast<DType>(raw_.dtype); }
  [[nodiscard]] std::span<const std::int64_t> shape() const noexcept { return {raw_.shape, raw_.rank}; }
  [[nodiscard]] std::uint64_t element_count() const noexcept;
  [[nodiscard]] const void* data() const noexcept { return raw_.data; }
  [[nodiscard]] void* mutable_data() noexcept { return raw_.data; }
  [[nodiscard]] std::size_t byte_size() const noexcept { return static_cast<std::size_t>(raw_.byte_size); }
  /// Items of a sequence; they stay owned by this value.
  [[nodiscard]] std::span<const eb_value> items() const noexcept {
    return {raw_.items, static_cast<std::size_t>(raw_.item_count)};
  }
  [[nodiscard]] const eb_value& raw() const noexcept { return raw_; }
  [[nodiscard]] eb_value& raw() noexcept { return raw_; }

 private:
  eb_value raw_;
};

/// Lines that edgebuild and the engines say. Default: warnings and errors to stderr.
using LogFunction = std::function<void(eb_severity severity, std::string_view message)>;

/// An engine that is in this process, or will come into it, by other means than a bundle, e.g. with Python's torch.
struct EngineFolder {
  std::string path;     ///< Folder of its libraries, each under its SONAME.
  std::string version;  ///< E.g. "2.13.0"; what follows a plus sign ("+cpu") names the build and is not compared.
};

struct LoadOptions {
  std::string backend;         ///< Only variants of this backend; empty: any.
  std::string variant;         ///< Only this variant; empty: any.
  bool allow_fallback = true;  ///< false: the first variant that is asked for must run here, else kIncompatible.
  std::map<std::string, std::string> options;  ///< Override the variant's, e.g. {"intra_op_threads", "1"}.
  std::string runtime_path;  ///< Folders of external engine libraries; empty: $EDGEBUILD_RUNTIME_PATH.
  /// Where what is made on the board lies: what `edgerun tune` measured. Empty: $XDG_STATE_HOME/edgebuild/<id>. It need
  /// not exist; a path that is something else than a folder is kUsage.
  std::string state_dir;
  bool tuning = true;     ///< false: variants are tried in the target's order, whatever `edgerun tune` kept.
  std::string cache_dir;  ///< Where archives are unpacked; empty: $XDG_CACHE_HOME/edgebuild/bundles.
  /// By the engine's name in manifests, e.g. "libtorch": variants whose plugin is linked with that engine use it in
  /// place of the bundle's own, since two copies of such an engine can't live in one process. It is not hashed; another
  /// version than the variant's is kIncompatible.
  std::map<std::string, EngineFolder> engine_folders;
  LogFunction log;
};

/// Stops runs from another thread: give its address to a run in RunOptions::cancellation, and call cancel().
///
/// One object serves any number of runs, of any Runners, at once and one after another. It must outlive them.
/// Threads: any function, any number of threads, at once.
class EDGEBUILD_API Cancellation {
 public:
  Cancellation();
  Cancellation(const Cancellation&) = delete;
  Cancellation& operator=(const Cancellation&) = delete;
  ~Cancellation();

  /// Stops the runs that were given this object: they return kCancelled, or their result if that came first. Returns
  /// when they have; those of an engine that can't be stopped go on to their end and are not waited for. Later runs
  /// return kCancelled at once, until reset(). Neither from a log function nor from a signal handler.
  void cancel();
  [[nodiscard]] bool cancelled() const;
  /// Lets later runs begin again.
  void reset();

 private:
  struct State;
  friend class CancellableRun;
  std::unique_ptr<State> state_;
};

struct RunOptions {
  std::optional<std::chrono::steady_clock::time_point> deadline;
  bool profile = false;
  void* device_stream = nullptr;
  Cancellation* cancellation = nullptr;  ///< What may stop the run; not owned. nullptr: nothing.
};

/// A variant that was passed over, and why, naming what is missing.
struct PassedOver {
  std::string variant;
  std::string reason;
};

/// Time of one node; see RunOptions::profile.
struct ProfileEntry {
  std::string node;
  std::string op_type;
  std::string provider;
  std::uint64_t duration_ns;
  std::uint64_t calls;
};

/// A loaded model with a pool of contexts. Any number of threads may use one Runner.
class EDGEBUILD_API Runner {
 public:
  /// Opens a bundle (a directory or an archive), checks what it is about to use against its hashes, and loads the first
  /// variant that can run here.
  ///
  /// @return kNotFound (no such file), kCorrupt, kIncompatible (with the reason for every variant), kUsage (unknown
  ///         backend or variant name), kResourceExhausted, kIo.
  static Result<Runner> load(const std::string& path, const LoadOptions& options = {});

  Runner(Runner&&) noexcept;
  Runner& operator=(Runner&&) noexcept;
  ~Runner();

  [[nodiscard]] const Signature& signature() const noexcept;
  [[nodiscard]] const std::string& variant_name() const noexcept;
  [[nodiscard]] const std::string& backend_name() const noexcept;
  /// The engine's own version, e.g. "1.31.1".
  [[nodiscard]] const std::string& engine_version() const noexcept;
  [[nodiscard]] std::span<const PassedOver> passed_over() const noexcept;
  /// In which order the variants were tried, and why: "as tuned on this machine for 1 thread (FILE)", or "the target's:
  /// " and the reason, e.g. that a tuning is of another CPU.
  [[nodiscard]] const std::string& variant_order() const noexcept;
  /// The bundle's id: 64 hexadecimal digits.
  [[nodiscard]] const std::string& bundle_id() const noexcept;

  /// Whether the model keeps state from run to run. Then this Runner has one state, and its runs wait for each other.
  [[nodiscard]] bool keeps_state() const noexcept;
  /// Puts the model's state back to what the bundle holds, once the run in progress has ended. Nothing to do for a
  /// model that keeps none.
  [[nodiscard]] Status reset();

  /// Runs one inference.
  ///
  /// @param inputs   One value per input, in signature order; not copied; must stay valid until this returns.
  /// @param outputs  One per output: bound with a capacity (shape and size are set here), or nothing (then allocated
  ///                 by the backend). What an earlier run allocated there is released first; a sequence and a tensor of
  ///                 strings can't be bound. An output buffer must not overlap an input.
  /// @return kInvalidArgument, naming the tensor, expected and actual, if count, dtype, rank or shape differ (outputs
  /// are
  ///         untouched); kBufferTooSmall, naming the output and the bytes needed; kDeadlineExceeded; kCancelled;
  ///         kInternal if the engine failed (the Runner stays usable).
  /// Threads: any number at once on one Runner; each call takes a context from its pool (but see keeps_state).
  [[nodiscard]] Status run(std::span<const Value> inputs, std::span<Value> outputs, const RunOptions& options = {});

  /// Makes decoded images into the input `name`, as the bundle's `preprocessing` says; calibration does the same.
  ///
  /// @param images  uint8 of shape (H, W), (H, W, C) or (N, H, W, C), C = 1, 3 (RGB) or 4 (RGBA); not kept.
  /// @return The tensor with its batch axis, owned; kNotFound if nothing is said about this input; kInvalidArgument
  ///         if the images are something else; kResourceExhausted.
  [[nodiscard]] Result<Value> preprocess(std::string_view name, const Value& images) const;

  /// Node times collected so far by runs with `profile`, in the order of execution. kUnsupported if the backend can't.
  Result<std::vector<ProfileEntry>> profile() const;

 private:
  struct Impl;
  explicit Runner(std::unique_ptr<Impl> impl) noexcept;
  friend struct RunnerAccess;  // the C API and the bindings
  std::unique_ptr<Impl> impl_;
};

/// edgebuild's version, e.g. "0.1.0".
[[nodiscard]] EDGEBUILD_API const char* version() noexcept;

}  // namespace edgebuild

#endif  // EDGEBUILD_RUNNER_HPP_
