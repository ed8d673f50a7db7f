// The backend's table of entries.

#include "tensorrt/backend.hpp"

namespace edgebuild::tensorrt {
namespace {

Backend* from(eb_backend* backend) noexcept { return reinterpret_cast<Backend*>(backend); }
Model* from(eb_model* model) noexcept { return reinterpret_cast<Model*>(model); }
Context* from(eb_context* context) noexcept { return reinterpret_cast<Context*>(context); }

eb_status* backend_create(const eb_host_api* host, const eb_backend_config* config, eb_backend** out) {
  return plugin::guard(*host, [&]() -> eb_status* {
    std::unique_ptr<Backend> backend;
    const Status status = Backend::create(*host, *config, &backend);
    *out = reinterpret_cast<eb_backend*>(backend.release());
    return give(*host, status);
  });
}

void backend_destroy(eb_backend* backend) { delete from(backend); }

const char* backend_engine_version(eb_backend* backend) { return from(backend)->engine().version().c_str(); }

eb_status* model_load(eb_backend* backend, const eb_model_config* config, eb_model** out) {
  const eb_host_api& host = from(backend)->host();
  return plugin::guard(host, [&]() -> eb_status* {
    std::unique_ptr<Model> model;
    const Status status = Model::load(*from(backend), *config, &model);
    *out = reinterpret_cast<eb_model*>(model.release());
    return give(host, status);
  });
}

void model_destroy(eb_model* model) { delete from(model); }

eb_status* describe(const Model& model, const std::vector<Port>& ports, std::size_t index, eb_io_info* out) {
  if (index >= ports.size() || !ports[index].tensor) {
    return plugin::make_error(model.backend().host(), EB_NOT_FOUND, "the model has no such input or output");
  }
  const TensorInfo& tensor = *ports[index].tensor;
  *out = {};
  out->struct_size = sizeof(eb_io_info);
  out->kind = EB_KIND_TENSOR;
  out->name = tensor.name.c_str();
  out->dtype = tensor.dtype;
  out->rank = static_cast<std::int32_t>(tensor.shape.size());
  for (std::size_t i = 0; i < tensor.shape.size() && i < EB_MAX_RANK; ++i) out->shape[i] = tensor.shape[i];
  return nullptr;
}

eb_status* model_input_info(eb_model* model, size_t index, eb_io_info* out) {
  return describe(*from(model), from(model)->inputs(), index, out);
}

eb_status* model_output_info(eb_model* model, size_t index, eb_io_info* out) {
  return describe(*from(model), from(model)->outputs(), index, out);
}

eb_status* model_settle(eb_model* model, uint32_t good) {
  const eb_host_api& host = from(model)->backend().host();
  return plugin::guard(host, [&] { return give(host, from(model)->settle(good != 0)); });
}

eb_status* context_create(eb_model* model, eb_context** out) {
  const eb_host_api& host = from(model)->backend().host();
  return plugin::guard(host, [&]() -> eb_status* {
    std::unique_ptr<Context> context;
    const Status status = Context::create(*from(model), &context);
    *out = reinterpret_cast<eb_context*>(context.release());
    return give(host, status);
  });
}

void context_destroy(eb_context* context) { delete from(context); }

eb_status* run(eb_context* context, const eb_value* inputs, size_t input_count, eb_value* outputs, size_t output_count,
               const eb_run_options* options) {
  const eb_host_api& host = from(context)->model().backend().host();
  return plugin::guard(
      host, [&] { return give(host, from(context)->run(inputs, input_count, outputs, output_count, options)); });
}

const eb_backend_api kApi = {
    .struct_size = sizeof(eb_backend_api),
    .abi_major = EB_ABI_MAJOR,
    .abi_minor = EB_ABI_MINOR,
    .features = EB_FEATURE_CONCURRENT | EB_FEATURE_PREPARE,
    .name = "tensorrt",
    .version = EDGEBUILD_VERSION,
    .backend_create = backend_create,
    .backend_destroy = backend_destroy,
    .backend_engine_version = backend_engine_version,
    .model_load = model_load,
    .model_destroy = model_destroy,
    .model_input_info = model_input_info,
    .model_output_info = model_output_info,
    .context_create = context_create,
    .context_destroy = context_destroy,
    .run = run,
    .run_async = nullptr,
    .cancel = nullptr,  // TensorRT can't stop what it has queued.
    .profile_read = nullptr,
    .model_settle = model_settle,
};

}  // namespace
}  // namespace edgebuild::tensorrt

EDGEBUILD_PLUGIN_QUERY(uint32_t host_major, uint32_t host_minor) {
  return eb_abi_compatible(EB_ABI_MAJOR, EB_ABI_MINOR, host_major, host_minor) ? &edgebuild::tensorrt::kApi : nullptr;
}
