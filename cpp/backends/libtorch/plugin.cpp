// The backend's table of entries.

#include "libtorch/libtorch.hpp"

namespace edgebuild::libtorch {
namespace {

Backend* from(eb_backend* backend) noexcept { return reinterpret_cast<Backend*>(backend); }
Model* from(eb_model* model) noexcept { return reinterpret_cast<Model*>(model); }
Context* from(eb_context* context) noexcept { return reinterpret_cast<Context*>(context); }

eb_status* backend_create(const eb_host_api* host, const eb_backend_config* config, eb_backend** out) {
  return guard(*host, "LibTorch does not start",
               [&] { return Backend::create(*host, *config, reinterpret_cast<Backend**>(out)); });
}

void backend_destroy(eb_backend* backend) { delete from(backend); }

const char* backend_engine_version(eb_backend* backend) { return from(backend)->version().c_str(); }

eb_status* model_load(eb_backend* backend, const eb_model_config* config, eb_model** out) {
  return guard(from(backend)->host(), "LibTorch can't load the model",
               [&] { return Model::load(*from(backend), *config, reinterpret_cast<Model**>(out)); });
}

void model_destroy(eb_model* model) { delete from(model); }

eb_status* describe(const Model& model, const std::vector<std::string>& names, std::size_t index, bool used,
                    eb_kind kind, eb_io_info* out) {
  if (!used) return plugin::make_error(model.host(), EB_NOT_FOUND, "the model has no such input or output");
  *out = {};
  out->struct_size = sizeof(eb_io_info);
  out->kind = kind;
  out->name = names[index].c_str();
  out->dtype = EB_DTYPE_UNDEFINED;  // TorchScript declares neither dtypes nor shapes.
  out->rank = -1;
  return nullptr;
}

eb_status* model_input_info(eb_model* handle, size_t index, eb_io_info* out) {
  const Model& model = *from(handle);
  const bool used = index < model.inputs().size() && model.inputs()[index];
  eb_kind kind = EB_KIND_TENSOR;
  if (used) {
    const Argument& argument = model.arguments()[*model.inputs()[index]];
    kind = argument.optional ? EB_KIND_OPTIONAL : argument.sequence ? EB_KIND_SEQUENCE : EB_KIND_TENSOR;
  }
  return describe(model, model.input_names(), index, used, kind, out);
}

eb_status* model_output_info(eb_model* handle, size_t index, eb_io_info* out) {
  const Model& model = *from(handle);
  return describe(model, model.output_names(), index, index < model.outputs().size(), EB_KIND_TENSOR, out);
}

eb_status* context_create(eb_model* model, eb_context** out) {
  return guard(from(model)->host(), "LibTorch", [&]() -> eb_status* {
    *out = reinterpret_cast<eb_context*>(new Context(*from(model)));
    return nullptr;
  });
}

void context_destroy(eb_context* context) { delete from(context); }

eb_status* run(eb_context* context, const eb_value* inputs, size_t input_count, eb_value* outputs, size_t output_count,
               const eb_run_options* options) {
  return guard(from(context)->host(), "LibTorch failed",
               [&] { return from(context)->run(inputs, input_count, outputs, output_count, options); });
}

const eb_backend_api kApi = {
    .struct_size = sizeof(eb_backend_api),
    .abi_major = EB_ABI_MAJOR,
    .abi_minor = EB_ABI_MINOR,
    // Neither a deadline nor a cancel stops a run that has begun: the interpreter has no way to be stopped.
    .features = EB_FEATURE_CONCURRENT,
    .name = "libtorch",
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
    .cancel = nullptr,
    .profile_read = nullptr,
    .model_settle = nullptr,
};

}  // namespace
}  // namespace edgebuild::libtorch

EDGEBUILD_PLUGIN_QUERY(uint32_t host_major, uint32_t host_minor) {
  return eb_abi_compatible(EB_ABI_MAJOR, EB_ABI_MINOR, host_major, host_minor) ? &edgebuild::libtorch::kApi : nullptr;
}
