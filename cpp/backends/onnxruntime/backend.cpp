#include <dlfcn.h>
#include <stdlib.h>

#include "onnxruntime/operators/register.hpp"
#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {
namespace {

eb_severity severity_of(OrtLoggingLevel level) noexcept {
  switch (level) {
    case ORT_LOGGING_LEVEL_VERBOSE:
      return EB_LOG_DEBUG;
    case ORT_LOGGING_LEVEL_INFO:
      return EB_LOG_INFO;
    case ORT_LOGGING_LEVEL_WARNING:
      return EB_LOG_WARNING;
    default:
      return EB_LOG_ERROR;
  }
}

void ORT_API_CALL forward_log(void* host, OrtLoggingLevel level, const char* /*category*/, const char* /*log_id*/,
                              const char* /*location*/, const char* message) {
  plugin::log(*static_cast<const eb_host_api*>(host), severity_of(level), message);
}

}  // namespace

eb_code code_of(OrtErrorCode code, eb_code fallback) noexcept {
  switch (code) {
    case ORT_INVALID_ARGUMENT:
      return EB_INVALID_ARGUMENT;
    case ORT_NOT_IMPLEMENTED:
      return EB_UNSUPPORTED;
    default:
      return fallback;
  }
}

eb_status* Backend::create(const eb_host_api& host, const eb_backend_config& config, Backend** out) {
  if (config.engine_library == nullptr) {
    return plugin::make_error(host, EB_USAGE,
                              "the onnxruntime backend needs an engine library and the variant names none");
  }
  // The engine keeps a device id and an event database in the user's cache folder unless it is told not to, when it is
  // loaded. A user who has set the variable has decided otherwise.
  setenv("ORT_DISABLE_TELEMETRY", "1", /*overwrite=*/0);
  void* const library = dlopen(config.engine_library, RTLD_NOW | RTLD_LOCAL);  // Never closed: it has threads.
  if (library == nullptr) {
    const char* const reason = dlerror();
    return plugin::make_error(
        host, EB_NOT_FOUND, std::string("the ONNX Runtime library can't be opened: ") + (reason ? reason : "unknown"));
  }
  using GetApiBase = const OrtApiBase* (*)();
  const auto get_api_base = reinterpret_cast<GetApiBase>(dlsym(library, "OrtGetApiBase"));
  if (get_api_base == nullptr) {
    return plugin::make_error(host, EB_INCOMPATIBLE, "the engine library is not ONNX Runtime: it has no OrtGetApiBase");
  }
  const OrtApiBase* const base = get_api_base();
  std::unique_ptr<Backend> backend(new Backend(host));
  backend->version_ = base->GetVersionString();
  if (config.engine_version != nullptr && backend->version_ != config.engine_version) {
    return plugin::make_error(host, EB_INCOMPATIBLE,
                              std::string("the bundle pins ONNX Runtime ") + config.engine_version +
                                  ", but the library is version " + backend->version_);
  }
  backend->api_ = base->GetApi(ORT_API_VERSION);
  if (backend->api_ == nullptr) {
    return plugin::make_error(host, EB_INCOMPATIBLE,
                              "ONNX Runtime " + backend->version_ + " does not offer version " +
                                  std::to_string(ORT_API_VERSION) + " of its C API, which this backend needs");
  }
  const OrtApi& api = backend->api();
  EDGEBUILD_PLUGIN_TRY(
      backend->take(api.CreateEnvWithCustomLogger(forward_log, const_cast<eb_host_api*>(&host),
                                                  ORT_LOGGING_LEVEL_WARNING, "edgebuild", &backend->env_),
                    "ONNX Runtime does not start"));
  EDGEBUILD_PLUGIN_TRY(backend->take(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &backend->cpu_),
                                     "ONNX Runtime does not start"));
  EDGEBUILD_PLUGIN_TRY(
      backend->take(api.GetAllocatorWithDefaultOptions(&backend->allocator_), "ONNX Runtime does not start"));
  EDGEBUILD_PLUGIN_TRY(
      backend->take(make_operators(api, &backend->operators_), "ONNX Runtime does not take edgebuild's operators"));
  *out = backend.release();
  return nullptr;
}

Backend::~Backend() {
  if (operators_ != nullptr) api_->ReleaseCustomOpDomain(operators_);
  if (cpu_ != nullptr) api_->ReleaseMemoryInfo(cpu_);
  if (env_ != nullptr) api_->ReleaseEnv(env_);
}

eb_status* Backend::take(OrtStatus* status, std::string_view what, eb_code fallback) const {
  if (status == nullptr) return nullptr;
  const eb_code code = code_of(api_->GetErrorCode(status), fallback);
  std::string message(what);
  message += ": ";
  message += api_->GetErrorMessage(status);
  api_->ReleaseStatus(status);
  // One line: the engine breaks its messages where it likes.
  for (char& character : message) {
    if (character == '\n' || character == '\r') character = ' ';
  }
  return plugin::make_error(*host_, code, message);
}

}  // namespace edgebuild::onnxruntime
