// edgebuild for C (C11): loads a bundle and runs its model. The C++ API in runner.hpp is the same.
//
//   eb_runner* runner = NULL;
//   if (eb_runner_load("model.x86-64.edge", NULL, &runner) != EB_OK) { puts(eb_last_error()); return 1; }
//   eb_value input = eb_value_view(EB_FLOAT32, shape, 4, pixels, sizeof pixels);
//   eb_value output = eb_value_bound(scores, sizeof scores);
//   if (eb_runner_run(runner, &input, 1, &output, 1, NULL) != EB_OK) puts(eb_last_error());
//   eb_runner_free(runner);
//
// Failure: functions that can fail return an eb_code; its message is eb_last_error() of the same thread. An eb_code
// other than EB_OK leaves every out-parameter as it was. Pointers are not NULL unless a comment allows it. Threads: any
// function, any number of threads, at once, also on one runner; eb_runner_free alone must be the last. Strings that are
// returned are UTF-8, NUL-terminated and owned by the library; each says how long it lives. Stability: what stands here
// keeps its meaning within one SONAME. Structs begin with their size and grow at the end.

#ifndef EDGEBUILD_EDGEBUILD_H_
#define EDGEBUILD_EDGEBUILD_H_

#include <stddef.h>
#include <stdint.h>

#include "edgebuild/backend_plugin.h"  // eb_code, eb_dtype, eb_value, eb_option, eb_io_info, eb_run_options
#include "edgebuild/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/// A loaded bundle.
typedef struct eb_runner eb_runner;

/// edgebuild's version, e.g. "0.1.0". Lives as long as the process.
EDGEBUILD_API const char* eb_version(void);

/// The message of this thread's last failed call; "" if none failed. Lives until the thread's next call that fails.
EDGEBUILD_API const char* eb_last_error(void);

/// A code's name, e.g. "corrupt bundle". Lives as long as the process.
EDGEBUILD_API const char* eb_code_name(eb_code code);

/// The exit code that edgebuild's own programs use for a code.
EDGEBUILD_API int eb_exit_code(eb_code code);

/// A dtype's name, e.g. "float32"; "undefined" for none. Lives as long as the process.
EDGEBUILD_API const char* eb_dtype_name(uint32_t dtype);

/// Bytes that a tensor needs, with packed sub-byte types; UINT64_MAX if dtype, rank or shape are impossible.
EDGEBUILD_API uint64_t eb_tensor_bytes(uint32_t dtype, const int64_t* shape, size_t rank);

/// An engine that is in this process, or will come into it, by other means than a bundle.
typedef struct eb_engine_folder {
  const char* engine;   ///< Its name in manifests, e.g. "libtorch".
  const char* path;     ///< Folder of its libraries, each under its SONAME.
  const char* version;  ///< E.g. "2.13.0"; what follows a plus sign ("+cpu") names the build and is not compared.
} eb_engine_folder;

/// How a bundle is loaded. Set it up with eb_load_options_init; every other field may then stay 0.
typedef struct eb_load_options {
  uint32_t struct_size;
  uint32_t no_fallback;      ///< 1: the first variant that is asked for must run here, else EB_INCOMPATIBLE.
  const char* backend;       ///< Only variants of this backend; NULL: any.
  const char* variant;       ///< Only this variant; NULL: any.
  const eb_option* options;  ///< Override the variant's, e.g. {"intra_op_threads", "1"}.
  size_t option_count;
  const char* runtime_path;  ///< Folders of external engine libraries; NULL: $EDGEBUILD_RUNTIME_PATH.
  /// Where what is made on the board lies: what `edgerun tune` measured. NULL: $XDG_STATE_HOME/edgebuild/<id>. It need
  /// not exist; a path that is something else than a folder is EB_USAGE.
  const char* state_dir;
  const char* cache_dir;  ///< Where archives are unpacked; NULL: $XDG_CACHE_HOME/edgebuild/bundles.
  /// Hears what edgebuild and the engines say, on the thread that says it; NULL: warnings and errors go to stderr.
  /// `message` is not NUL-terminated. Called until eb_runner_free returns.
  void (*log)(void* user, eb_severity severity, const char* message, size_t message_size);
  void* log_user;
  uint32_t no_tuning;  ///< 1: variants are tried in the target's order, whatever `edgerun tune` kept.
  /// Variants whose plugin is linked with one of these engines use it in place of the bundle's own, since two copies of
  /// such an engine can't live in one process. It is not hashed; another version than the variant's is EB_INCOMPATIBLE.
  const eb_engine_folder* engine_folders;
  size_t engine_folder_count;
} eb_load_options;

/// Sets every field to its default.
EDGEBUILD_API void eb_load_options_init(eb_load_options* options);

/// Opens a bundle (directory or archive), checks what it is about to use against its hashes, and loads the first
/// variant that can run here.
///
/// @param options  NULL: the defaults. Not kept, but for `log` and `log_user`.
/// @param out      The runner, owned by the caller, who frees it with eb_runner_free.
/// @return EB_NOT_FOUND, EB_CORRUPT, EB_INCOMPATIBLE (with the reason for every variant), EB_USAGE (unknown backend,
///         variant or option), EB_RESOURCE_EXHAUSTED, EB_IO.
EDGEBUILD_API eb_code eb_runner_load(const char* path, const eb_load_options* options, eb_runner** out);

/// Frees a runner. NULL is allowed. Outputs that the backend allocated must be released before.
EDGEBUILD_API void eb_runner_free(eb_runner* runner);

/// Runs one inference.
///
/// @param inputs   One per input, in signature order; only read; the memory must stay valid until this returns.
/// @param outputs  One per output: eb_value_bound (dtype, shape and byte_size are set here), or eb_value_none: then the
///                 backend allocates, and the caller calls eb_value_release. What an earlier run allocated there is
///                 released first.
/// @param options  NULL: the defaults.
/// @return EB_INVALID_ARGUMENT, naming the tensor, expected and actual (outputs untouched); EB_BUFFER_TOO_SMALL, with
/// the
///         needed size in the output's byte_size; EB_DEADLINE_EXCEEDED; EB_INTERNAL if the engine failed (the runner
///         stays usable).
EDGEBUILD_API eb_code eb_runner_run(eb_runner* runner, const eb_value* inputs, size_t input_count, eb_value* outputs,
                                    size_t output_count, const eb_run_options* options);

/// 1: the model keeps state from run to run; then a runner has one state, and its runs wait for each other.
EDGEBUILD_API uint32_t eb_runner_keeps_state(const eb_runner* runner);

/// Puts the model's state back to what the bundle holds, once the run in progress has ended. EB_OK and nothing to do
/// for a model that keeps none.
EDGEBUILD_API eb_code eb_runner_reset(eb_runner* runner);

/// What stops runs from another thread. One serves any number of runs, of any runners, at once and one after another.
typedef struct eb_cancellation eb_cancellation;

/// A new one, owned by the caller, who frees it with eb_cancellation_free after the runs that it was given to. NULL: no
/// memory.
EDGEBUILD_API eb_cancellation* eb_cancellation_create(void);

/// NULL is allowed.
EDGEBUILD_API void eb_cancellation_free(eb_cancellation* cancellation);

/// Stops the runs that were given it: they return EB_CANCELLED, or their result if that came first. Returns when they
/// have; those of an engine that can't be stopped go on to their end and are not waited for. Later runs return
/// EB_CANCELLED at once, until eb_cancellation_reset. Neither from a log function nor from a signal handler.
EDGEBUILD_API void eb_cancellation_cancel(eb_cancellation* cancellation);

/// Lets later runs begin again.
EDGEBUILD_API void eb_cancellation_reset(eb_cancellation* cancellation);

/// eb_runner_run that `cancellation` (NULL: nothing) may stop: EB_CANCELLED.
EDGEBUILD_API eb_code eb_runner_run_cancellable(eb_runner* runner, const eb_value* inputs, size_t input_count,
                                                eb_value* outputs, size_t output_count, const eb_run_options* options,
                                                eb_cancellation* cancellation);

/// Makes decoded images into the input `name`, as the bundle's preprocessing says; calibration does the same.
///
/// @param images  uint8 of shape (H, W), (H, W, C) or (N, H, W, C), C = 1, 3 (RGB) or 4 (RGBA); not kept.
/// @param out     Overwritten with the tensor, with its batch axis; the caller calls eb_value_release.
/// @return EB_NOT_FOUND if nothing is said about this input; EB_INVALID_ARGUMENT if the images are something else.
EDGEBUILD_API eb_code eb_runner_preprocess(const eb_runner* runner, const char* name, const eb_value* images,
                                           eb_value* out);

EDGEBUILD_API size_t eb_runner_input_count(const eb_runner* runner);
EDGEBUILD_API size_t eb_runner_output_count(const eb_runner* runner);

/// Describes an input or output of the signature; -1 stands for a dynamic size, rank -1 for any rank. Set
/// `out->struct_size` first. Strings live as long as the runner.
/// @return EB_NOT_FOUND if there is no such index.
EDGEBUILD_API eb_code eb_runner_input(const eb_runner* runner, size_t index, eb_io_info* out);
EDGEBUILD_API eb_code eb_runner_output(const eb_runner* runner, size_t index, eb_io_info* out);

/// The type as users write it, e.g. "float32[batch,3,224,224]"; NULL if there is no such index. Lives as long as the
/// runner.
EDGEBUILD_API const char* eb_runner_input_type(const eb_runner* runner, size_t index);
EDGEBUILD_API const char* eb_runner_output_type(const eb_runner* runner, size_t index);

/// The symbol of an axis; NULL if it has none or there is no such axis. Lives as long as the runner.
EDGEBUILD_API const char* eb_runner_input_symbol(const eb_runner* runner, size_t index, size_t axis);

/// The range of a symbol; `max` is INT64_MAX if it has no bound. @return EB_NOT_FOUND if it has no range.
EDGEBUILD_API eb_code eb_runner_symbol_range(const eb_runner* runner, const char* symbol, int64_t* min, int64_t* best,
                                             int64_t* max);

/// The step of a symbol: its sizes are multiples of it; 1 if any size of its range will do, or it has no range.
EDGEBUILD_API int64_t eb_runner_symbol_step(const eb_runner* runner, const char* symbol);

/// The variant that was chosen, its backend, the engine's own version, the bundle's id. Live as long as the runner.
EDGEBUILD_API const char* eb_runner_variant(const eb_runner* runner);
EDGEBUILD_API const char* eb_runner_backend(const eb_runner* runner);
EDGEBUILD_API const char* eb_runner_engine_version(const eb_runner* runner);
EDGEBUILD_API const char* eb_runner_bundle_id(const eb_runner* runner);

/// In which order the variants were tried, and why: "as tuned on this machine for 1 thread (FILE)", or "the target's: "
/// and the reason. Lives as long as the runner.
EDGEBUILD_API const char* eb_runner_variant_order(const eb_runner* runner);

/// Variants that were passed over, and why. Strings live as long as the runner. @return EB_NOT_FOUND beyond the count.
EDGEBUILD_API size_t eb_runner_passed_over_count(const eb_runner* runner);
EDGEBUILD_API eb_code eb_runner_passed_over(const eb_runner* runner, size_t index, const char** variant,
                                            const char** reason);

/// Node times collected by runs with `profile`, in the order of execution. They live until this thread's next call of
/// this function or until the thread ends. @return EB_UNSUPPORTED if the backend can't profile.
EDGEBUILD_API eb_code eb_runner_profile(eb_runner* runner, const eb_profile_entry** entries, size_t* count);

/// Nothing: an absent optional; as an output, "to be allocated by the backend".
EDGEBUILD_API eb_value eb_value_none(void);

/// A tensor over the caller's memory, row-major. Impossible arguments give a value that eb_runner_run refuses.
/// @param shape  `rank` sizes, copied; NULL if rank is 0.
EDGEBUILD_API eb_value eb_value_view(uint32_t dtype, const int64_t* shape, size_t rank, const void* data, size_t bytes);

/// An output over the caller's memory, `capacity` bytes.
EDGEBUILD_API eb_value eb_value_bound(void* data, size_t capacity);

/// Releases what a run allocated, and makes it eb_value_none. Safe on any value made here, and a second time.
EDGEBUILD_API void eb_value_release(eb_value* value);

#ifdef __cplusplus
}
#endif

#endif  // EDGEBUILD_EDGEBUILD_H_
