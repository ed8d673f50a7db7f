// edgebuild backend plugin ABI, version 1.1.
//
// A backend is a small library that runs one kind of model file. This header is all that it needs: it includes
// nothing but <stdint.h> and <stddef.h>, and everything in it is plain C, because a plugin may be built with another
// compiler and another C++ standard library than its host.
//
// One symbol is exported, `edgebuild_backend_query` (see the end of this file). A statically linked backend offers the
// same function under a name of its own, so that the two kinds share everything else.
//
// Objects and threads
//   eb_backend  one a process and plugin. Every entry that takes one may be called from any thread at any time.
//   eb_model    a loaded model; immutable and shared. Entries that take one may be called from any thread at any time.
//   eb_context  what one running caller needs (bound buffers, stream, scratch). Used by one caller at a time, but not
//               bound to a thread; `cancel` alone may be called at the same time as `run`.
//   A parent outlives its children: backend > model > context. The host keeps this order, a plugin may rely on it.
//
// Strings are UTF-8 and NUL-terminated unless a length stands beside them. Pointers that a plugin receives are valid
// until the call returns unless their comment says otherwise.
//
// Versioning: a plugin works with a host if the majors are equal and the plugin's minor is not above the host's. A new
// minor only appends fields and slots; a reader takes a field for present if `struct_size` covers it. Every struct
// here begins with its `struct_size`, set by whoever creates it.

#ifndef EDGEBUILD_BACKEND_PLUGIN_H_
#define EDGEBUILD_BACKEND_PLUGIN_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EB_ABI_MAJOR 1u
#define EB_ABI_MINOR 1u

/// Most dimensions of a tensor.
#define EB_MAX_RANK 16u

/// What went wrong. The numbers are frozen; the core's Status, the C API and the exit codes are mapped from them.
typedef enum eb_code {
  EB_OK = 0,
  EB_INTERNAL = 1,            ///< A fault of edgebuild or of the engine that has no better name.
  EB_INVALID_ARGUMENT = 2,    ///< A value does not fit the model's signature: name, dtype, rank, size, count.
  EB_NOT_FOUND = 3,           ///< A file, symbol or name does not exist.
  EB_CORRUPT = 4,             ///< Bytes are not what their hash or format says.
  EB_INCOMPATIBLE = 5,        ///< Right format, but not for this machine, version or build.
  EB_RESOURCE_EXHAUSTED = 6,  ///< Memory, disk or descriptors.
  EB_DEADLINE_EXCEEDED = 7,   ///< The run's deadline passed.
  EB_CANCELLED = 8,           ///< The caller cancelled the run.
  EB_UNSUPPORTED = 9,         ///< The backend cannot do this (an operator, a dtype, an optional entry).
  EB_IO = 10,                 ///< The operating system refused to read or write.
  EB_GATE_FAILED = 11,        ///< A result is outside its tolerance.
  EB_USAGE = 12,              ///< The caller's options contradict each other or are out of range.
  EB_BUFFER_TOO_SMALL = 13    ///< A bound output is too small; its `byte_size` holds the size that is needed.
} eb_code;

/// Element types. The numbers are those of ONNX TensorProto.DataType, and frozen.
/// Types of 4 (2) bits are packed two (four) to a byte, the lowest-order bits first, without padding between rows; the
/// last byte's unused bits are zero.
typedef enum eb_dtype {
  EB_DTYPE_UNDEFINED = 0,
  EB_FLOAT32 = 1,
  EB_UINT8 = 2,
  EB_INT8 = 3,
  EB_UINT16 = 4,
  EB_INT16 = 5,
  EB_INT32 = 6,
  EB_INT64 = 7,
  EB_STRING = 8,  ///< `data` is an array of eb_string.
  EB_BOOL = 9,    ///< One byte, 0 or 1.
  EB_FLOAT16 = 10,
  EB_FLOAT64 = 11,
  EB_UINT32 = 12,
  EB_UINT64 = 13,
  EB_COMPLEX64 = 14,
  EB_COMPLEX128 = 15,
  EB_BFLOAT16 = 16,
  EB_FLOAT8_E4M3FN = 17,
  EB_FLOAT8_E4M3FNUZ = 18,
  EB_FLOAT8_E5M2 = 19,
  EB_FLOAT8_E5M2FNUZ = 20,
  EB_UINT4 = 21,
  EB_INT4 = 22,
  EB_FLOAT4_E2M1 = 23,
  EB_FLOAT8_E8M0 = 24,
  EB_UINT2 = 25,
  EB_INT2 = 26
} eb_dtype;

/// Where a tensor's bytes live. The numbers are DLPack's DLDeviceType.
typedef enum eb_device_type { EB_DEVICE_CPU = 1, EB_DEVICE_CUDA = 2, EB_DEVICE_CUDA_HOST = 3 } eb_device_type;

/// What an eb_value is.
typedef enum eb_kind {
  EB_KIND_NONE = 0,  ///< An absent optional; or, as an output: to be allocated by the backend.
  EB_KIND_TENSOR = 1,
  EB_KIND_SEQUENCE = 2,  ///< `items[0 .. item_count)`.
  EB_KIND_OPTIONAL = 3   ///< Only in descriptions; a present optional travels as what it holds, an absent one as NONE.
} eb_kind;

typedef enum eb_severity { EB_LOG_DEBUG = 0, EB_LOG_INFO = 1, EB_LOG_WARNING = 2, EB_LOG_ERROR = 3 } eb_severity;

/// One element of a string tensor. Not NUL-terminated.
typedef struct eb_string {
  const char* data;
  uint64_t size;  ///< Bytes.
} eb_string;

/// An error, made by the host's `status_create`. NULL means success. Whoever receives one owns it and frees it with
/// the host's `status_destroy`.
typedef struct eb_status eb_status;

/// A value: a tensor (row-major, contiguous), a sequence of values, or nothing.
///
/// As an input, everything is owned by the caller and read only.
/// As an output, the caller chooses by `kind` before the run:
///   - EB_KIND_TENSOR with `data` and `byte_capacity`: bound. The backend writes there and sets dtype, rank, shape and
///     byte_size. If the result is larger, the backend sets `byte_size` to the size it needs, dtype, rank and shape to
///     the result's, and returns EB_BUFFER_TOO_SMALL; it does not run a second time.
///   - EB_KIND_NONE: the backend allocates, fills every field, and sets `release`; the caller calls it once.
typedef struct eb_value {
  uint32_t struct_size;
  uint32_t kind;           ///< eb_kind.
  uint32_t dtype;          ///< eb_dtype. Of a sequence: that of its elements, if known.
  int32_t device_type;     ///< eb_device_type.
  int32_t device_id;       ///< 0 on CPU.
  uint32_t rank;           ///< At most EB_MAX_RANK.
  int64_t shape[16];       ///< `rank` entries, each >= 0.
  void* data;              ///< NULL only if the tensor has no bytes. Aligned to the element size at least.
  uint64_t byte_size;      ///< Bytes in use; of strings: count * sizeof(eb_string).
  uint64_t byte_capacity;  ///< Of a bound output: bytes available at `data`.
  struct eb_value* items;  ///< Of a sequence.
  uint64_t item_count;
  void* owner;                              ///< For `release` alone.
  void (*release)(struct eb_value* value);  ///< NULL: nothing to release. Any thread, once, before its model ends.
} eb_value;

/// What the host lends to a plugin. Valid until the process ends. Every entry may be called from any thread.
typedef struct eb_host_api {
  uint32_t struct_size;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint64_t features;  ///< Reserved, 0.
  void* user;         ///< Passed back as the first argument of every entry.
  /// Memory of `size` bytes, aligned to `alignment` (a power of two); NULL if there is none. Size 0 gives NULL.
  void* (*allocate)(void* user, size_t size, size_t alignment);
  /// Frees what `allocate` gave. NULL is allowed.
  void (*deallocate)(void* user, void* pointer);
  /// Makes a status. `message` need not be NUL-terminated; it is copied. Never returns NULL.
  eb_status* (*status_create)(void* user, int32_t code, const char* message, size_t message_size);
  int32_t (*status_code)(void* user, const eb_status* status);
  /// NUL-terminated; lives as long as the status.
  const char* (*status_message)(void* user, const eb_status* status);
  void (*status_destroy)(void* user, eb_status* status);
  /// Engine output for the user's log. Must not be called from `release`.
  void (*log)(void* user, int32_t severity, const char* message, size_t message_size);
} eb_host_api;

/// A name and a value, e.g. {"intra_op_threads", "2"}.
typedef struct eb_option {
  const char* name;
  const char* value;
} eb_option;

/// Bytes of one file of the bundle, already checked against their hash.
typedef struct eb_file {
  const char* path;  ///< Inside the bundle, e.g. "model/model.onnx".
  const void* data;  ///< Read-only, page-aligned; valid until the model is destroyed.
  uint64_t size;
} eb_file;

typedef struct eb_backend_config {
  uint32_t struct_size;
  uint32_t reserved;
  /// The engine's library, as dlopen() takes it (a path, or /proc/self/fd/N whose bytes have been hashed). NULL if the
  /// backend needs none.
  const char* engine_library;
  /// The version that the manifest pins, e.g. "1.31.1"; NULL if unknown. The backend compares it with the engine's own.
  const char* engine_version;
} eb_backend_config;

/// What a load may make on this machine before the model is ready, e.g. an engine's plan for this GPU (minor 1).
typedef enum eb_preparation {
  EB_PREPARATION_NONE = 0,   ///< Only use what is ready; EB_NOT_FOUND, saying what to do, if it is not.
  EB_PREPARATION_MAKE = 1,   ///< Make what is missing, or wait for another process that makes it. May take minutes.
  EB_PREPARATION_REMAKE = 2  ///< Make it anew, whatever is there.
} eb_preparation;

typedef struct eb_model_config {
  uint32_t struct_size;
  uint32_t reserved;
  const eb_file* files;  ///< The first is the model; the others are what it refers to (weights).
  size_t file_count;
  const eb_option* options;  ///< From the variant, overridden by the caller. Unknown name: EB_USAGE.
  size_t option_count;
  const char* const* input_names;  ///< The engine's names in signature order; NULL: the graph has no such input.
  size_t input_count;
  const char* const* output_names;
  size_t output_count;
  // From here on: minor 1.
  /// Folder for what is made on this machine; need not exist. NULL: there is none, so nothing can be kept.
  const char* state_dir;
  uint32_t preparation;  ///< eb_preparation; anything but NONE only with EB_FEATURE_PREPARE.
  uint32_t reserved_1;
  /// Hears how far the preparation is: a step's name, and of it `done` of `total` (0: unknown). Any thread, until
  /// model_load returns. May be NULL.
  void (*progress)(void* user, const char* step, uint32_t done, uint32_t total);
  void* progress_user;
} eb_model_config;

/// What a loaded model takes or gives at one place. All pointers belong to the model.
typedef struct eb_io_info {
  uint32_t struct_size;
  uint32_t kind;  ///< eb_kind.
  const char* name;
  uint32_t dtype;     ///< EB_DTYPE_UNDEFINED if unknown.
  int32_t rank;       ///< -1 if unknown.
  int64_t shape[16];  ///< -1 where unknown or dynamic.
} eb_io_info;

/// How one run goes. A field's zero value means "the default".
typedef struct eb_run_options {
  uint32_t struct_size;
  uint32_t profile;     ///< 1: collect eb_profile_entry for `profile_read`.
  int64_t deadline_ns;  ///< On CLOCK_MONOTONIC; 0: none. EB_DEADLINE_EXCEEDED when it passes, if the engine can stop.
  void* device_stream;  ///< E.g. a cudaStream_t; NULL: the context's own.
} eb_run_options;

/// Time spent in one node, summed over the profiled runs of a context. Strings belong to the context, until its next
/// run.
typedef struct eb_profile_entry {
  const char* node;
  const char* op_type;
  const char* provider;  ///< Where the engine placed it.
  uint64_t duration_ns;
  uint64_t calls;
} eb_profile_entry;

typedef struct eb_backend eb_backend;
typedef struct eb_model eb_model;
typedef struct eb_context eb_context;

/// What a backend can do beyond the required entries (bits of eb_backend_api.features).
#define EB_FEATURE_CANCEL (UINT64_C(1) << 0)      ///< `cancel` and deadlines stop a run that has begun.
#define EB_FEATURE_PROFILE (UINT64_C(1) << 1)     ///< `profile_read` works.
#define EB_FEATURE_CONCURRENT (UINT64_C(1) << 2)  ///< Contexts of one model run at the same time.
#define EB_FEATURE_PREPARE (UINT64_C(1) << 3)     ///< Models need something made on this machine; see eb_preparation.

/// The backend's entries. Valid until the process ends (a plugin is never unloaded). Slots are appended, never moved.
typedef struct eb_backend_api {
  uint32_t struct_size;
  uint16_t abi_major;
  uint16_t abi_minor;
  uint64_t features;    ///< EB_FEATURE_*.
  const char* name;     ///< As in the manifest, e.g. "onnxruntime".
  const char* version;  ///< The plugin's own.

  /// Opens the engine. `host` stays valid. May take long (loads a library).
  eb_status* (*backend_create)(const eb_host_api* host, const eb_backend_config* config, eb_backend** out);
  void (*backend_destroy)(eb_backend* backend);
  /// The engine's version, e.g. "1.31.1"; lives as long as the backend.
  const char* (*backend_engine_version)(eb_backend* backend);

  /// Loads a model. `config->files[i].data` stays valid until `model_destroy`; the rest of `config` does not.
  eb_status* (*model_load)(eb_backend* backend, const eb_model_config* config, eb_model** out);
  void (*model_destroy)(eb_model* model);
  /// Describes input (or output) `index`, in the order of `config->input_names`. EB_NOT_FOUND for an unused input.
  eb_status* (*model_input_info)(eb_model* model, size_t index, eb_io_info* out);
  eb_status* (*model_output_info)(eb_model* model, size_t index, eb_io_info* out);

  eb_status* (*context_create)(eb_model* model, eb_context** out);
  void (*context_destroy)(eb_context* context);

  /// Runs once. `inputs` and `outputs` are in signature order and as many as model_load was told; an input whose engine
  /// name was NULL is ignored. On failure every output is as it was before, but for the fields that EB_BUFFER_TOO_SMALL
  /// sets. The context stays usable after any failure.
  eb_status* (*run)(eb_context* context, const eb_value* inputs, size_t input_count, eb_value* outputs,
                    size_t output_count, const eb_run_options* options);
  /// Reserved: an asynchronous run. NULL in this version.
  void* run_async;
  /// Asks the context's current run to stop; it returns EB_CANCELLED soon. Any thread. NULL without EB_FEATURE_CANCEL.
  eb_status* (*cancel)(eb_context* context);
  /// Entries collected since the context was made, in the order of execution. NULL without EB_FEATURE_PROFILE.
  eb_status* (*profile_read)(eb_context* context, const eb_profile_entry** out_entries, size_t* out_count);

  // From here on: minor 1.
  /// The verdict on what was made while this model was loaded: not 0: its results are right, later loads may use it;
  /// 0: they are not, it is thrown away. Without a verdict it is kept for the next preparation alone. Once a model;
  /// nothing happens if nothing was made. NULL without EB_FEATURE_PREPARE.
  eb_status* (*model_settle)(eb_model* model, uint32_t good);
} eb_backend_api;

/// The one exported symbol. Returns the backend's table, or NULL if it does not work with a host of this version (the
/// host then says so, naming both). Any thread; may be called again and returns the same table.
typedef const eb_backend_api* (*eb_backend_query_fn)(uint32_t host_abi_major, uint32_t host_abi_minor);

#define EB_BACKEND_QUERY_SYMBOL "edgebuild_backend_query"

/// Whether a plugin works with a host. The one rule, for both sides; the first eight bytes of eb_backend_api
/// (struct_size, abi_major, abi_minor) are the same in every major, so that a refusal can always name both versions.
static inline int eb_abi_compatible(uint32_t plugin_major, uint32_t plugin_minor, uint32_t host_major,
                                    uint32_t host_minor) {
  return plugin_major == host_major && plugin_minor <= host_minor;
}

// Layout is frozen for major 1 on 64-bit and 32-bit hosts alike: fields up to here keep their offsets.
#if defined(__cplusplus) || (defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L)
#ifdef __cplusplus
#define EB_STATIC_ASSERT(c, m) static_assert(c, m)
#else
#define EB_STATIC_ASSERT(c, m) _Static_assert(c, m)
#endif
EB_STATIC_ASSERT(offsetof(eb_value, shape) == 24, "eb_value.shape moved");
EB_STATIC_ASSERT(offsetof(eb_value, data) == 152, "eb_value.data moved");
EB_STATIC_ASSERT(offsetof(eb_host_api, features) == 8, "eb_host_api.features moved");
EB_STATIC_ASSERT(offsetof(eb_host_api, log) == 16 + 7 * sizeof(void*), "eb_host_api slot moved");
EB_STATIC_ASSERT(offsetof(eb_backend_api, name) == 16, "eb_backend_api.name moved");
EB_STATIC_ASSERT(offsetof(eb_backend_api, model_load) == 16 + 5 * sizeof(void*), "eb_backend_api slot moved");
EB_STATIC_ASSERT(offsetof(eb_backend_api, run) == 16 + 11 * sizeof(void*), "eb_backend_api slot moved");
EB_STATIC_ASSERT(offsetof(eb_backend_api, profile_read) == 16 + 14 * sizeof(void*), "eb_backend_api slot moved");
EB_STATIC_ASSERT(offsetof(eb_backend_api, model_settle) == 16 + 15 * sizeof(void*), "eb_backend_api slot moved");
EB_STATIC_ASSERT(offsetof(eb_model_config, state_dir) == 8 + 8 * sizeof(void*), "eb_model_config.state_dir moved");
#endif

#ifdef __cplusplus
}
#endif

#endif  // EDGEBUILD_BACKEND_PLUGIN_H_
