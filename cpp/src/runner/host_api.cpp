#include "runner/host_api.hpp"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <new>

/// What a plugin sees as an opaque status.
struct eb_status {
  std::int32_t code;
  std::string message;
};

namespace edgebuild::runner {
namespace {

thread_local const LogFunction* thread_log = nullptr;

struct BackgroundLog {
  std::mutex mutex;
  std::weak_ptr<const LogFunction> sink;
};

/// Never destroyed: an engine's thread may speak while the process ends.
BackgroundLog& background_log() {
  static auto* const log = new BackgroundLog;
  return *log;
}

void print_line(eb_severity severity, std::string_view message) noexcept {
  if (severity < EB_LOG_WARNING) return;
  std::fprintf(stderr, "edgebuild: %s: %.*s\n", severity == EB_LOG_WARNING ? "warning" : "error",
               static_cast<int>(message.size()), message.data());
}

void* allocate(void* /*user*/, size_t size, size_t alignment) {
  if (size == 0) return nullptr;
  void* pointer = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  return posix_memalign(&pointer, alignment, size) == 0 ? pointer : nullptr;
}

void deallocate(void* /*user*/, void* pointer) { std::free(pointer); }

/// Handed out when there is no memory for a status; never freed.
eb_status& out_of_memory() {
  static auto* const status = new eb_status{EB_RESOURCE_EXHAUSTED, "out of memory"};
  return *status;
}

eb_status* status_create(void* /*user*/, int32_t code, const char* message, size_t message_size) {
  try {
    return new eb_status{code == EB_OK ? static_cast<std::int32_t>(EB_INTERNAL) : code,
                         std::string(message, message_size)};
  } catch (const std::bad_alloc&) {
    return &out_of_memory();
  }
}

int32_t status_code(void* /*user*/, const eb_status* status) { return status->code; }

const char* status_message(void* /*user*/, const eb_status* status) { return status->message.c_str(); }

void status_destroy(void* /*user*/, eb_status* status) {
  if (status != &out_of_memory()) delete status;
}

void log(void* /*user*/, int32_t severity, const char* message, size_t message_size) {
  log_line(static_cast<eb_severity>(severity), {message, message_size});
}

constexpr eb_host_api kHostApi = {
    .struct_size = sizeof(eb_host_api),
    .abi_major = EB_ABI_MAJOR,
    .abi_minor = EB_ABI_MINOR,
    .features = 0,
    .user = nullptr,
    .allocate = allocate,
    .deallocate = deallocate,
    .status_create = status_create,
    .status_code = status_code,
    .status_message = status_message,
    .status_destroy = status_destroy,
    .log = log,
};

}  // namespace

const eb_host_api& host_api() noexcept {
  static_cast<void>(out_of_memory());  // Made while there is memory.
  return kHostApi;
}

Status take_status(eb_status* status) {
  if (status == nullptr) return {};
  const bool known = status->code > EB_OK && status->code <= EB_BUFFER_TOO_SMALL;
  Status taken(known ? static_cast<Code>(status->code) : Code::kInternal, std::move(status->message));
  status_destroy(nullptr, status);
  return taken;
}

LogScope::LogScope(const std::shared_ptr<const LogFunction>& sink) noexcept : previous_(thread_log) {
  if (sink != nullptr) thread_log = sink.get();
}

LogScope::~LogScope() { thread_log = previous_; }

void set_background_log(const std::shared_ptr<const LogFunction>& sink) {
  const std::lock_guard lock(background_log().mutex);
  background_log().sink = sink;
}

void log_line(eb_severity severity, std::string_view message) noexcept {
  try {
    if (thread_log != nullptr) return (*thread_log)(severity, message);
    std::shared_ptr<const LogFunction> sink;
    {
      const std::lock_guard lock(background_log().mutex);
      sink = background_log().sink.lock();
    }
    if (sink != nullptr) return (*sink)(severity, message);
    print_line(severity, message);
  } catch (...) {  // A log function of the user's must not take the engine down.
    print_line(EB_LOG_ERROR, "the log function threw an exception");
  }
}

}  // namespace edgebuild::runner
