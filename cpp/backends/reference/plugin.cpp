// The backend's table of entries.

#include "reference/reference.hpp"

namespace edgebuild::reference {
namespace {

Backend* from(eb_backend* backend) noexcept { return reinterpret_cast<Backend*>(backend); }
Model* from(eb_model* model) noexcept { return reinterpret_cast<Model*>(model); }
Context* from(eb_context* context) noexcept { return reinterpret_cast<Context*>(context); }

eb_status* give(const eb_host_api& host, const Failure& failure) {
  return failure.ok() ? nullptr : plugin::make_error(host, failure.code, failure.message);
}

eb_status* backend_create(const eb_host_api* host, const eb_backend_config* /*config*/, eb_backend** out) {
  return plugin::guard(*host, [&]() -> eb_status* {
    *out = reinterpret_cast<eb_backend*>(new Backend{host});
    return nullptr;
  });
}

void backend_destroy(eb_backend* backend) { delete from(backend); }

const char* backend_engine_version(eb_backend* /*backend*/) { return EDGEBUILD_VERSION; }

eb_status* model_load(eb_backend* backend, const eb_model_config* config, eb_model** out) {
  const eb_host_api& host = *from(backend)->host;
  return plugin::guard(host, [&]() -> eb_status* {
    if (config->option_count != 0) {
      return plugin::make_error(
          host, EB_USAGE,
          std::string("the reference backend has no option '") + config->options[0].name + "'; it knows none");
    }
    auto model = std::make_unique<Model>();
    model->backend = from(backend);
    const Failure failure = parse_graph(*config, &model->graph);
    if (failure.ok()) *out = reinterpret_cast<eb_model*>(model.release());
    return give(host, failure);
  });
}

void model_destroy(eb_model* model) { delete from(model); }

eb_status* describe(const Model& model, const std::vector<Port>& ports, std::size_t index, eb_io_info* out) {
  if (index >= ports.size() || ports[index].name.empty()) {
    return plugin::make_error(*model.backend->host, EB_NOT_FOUND, "the model has no such input or output");
  }
  const Port& port = ports[index];
  *out = {};
  out->struct_size = sizeof(eb_io_info);
  out->kind = port.kind;
  out->name = port.name.c_str();
  out->dtype = port.dtype;
  out->rank = port.shape ? static_cast<std::int32_t>(port.shape->size()) : -1;
  for (std::size_t i = 0; port.shape && i < port.shape->size(); ++i) out->shape[i] = (*port.shape)[i];
  return nullptr;
}

eb_status* model_input_info(eb_model* model, size_t index, eb_io_info* out) {
  return describe(*from(model), from(model)->graph.inputs, index, out);
}

eb_status* model_output_info(eb_model* model, size_t index, eb_io_info* out) {
  return describe(*from(model), from(model)->graph.outputs, index, out);
}

eb_status* context_create(eb_model* model, eb_context** out) {
  return plugin::guard(*from(model)->backend->host, [&]() -> eb_status* {
    *out = reinterpret_cast<eb_context*>(new Context(*from(model)));
    return nullptr;
  });
}

void context_destroy(eb_context* context) { delete from(context); }

eb_status* run(eb_context* context, const eb_value* inputs, size_t input_count, eb_value* outputs, size_t output_count,
               const eb_run_options* options) {
  const eb_host_api& host = from(context)->host();
  return plugin::guard(
      host, [&] { return give(host, from(context)->run(inputs, input_count, outputs, output_count, options)); });
}

eb_status* cancel(eb_context* context) {
  from(context)->cancel();
  return nullptr;
}

eb_status* profile_read(eb_context* context, const eb_profile_entry** entries, size_t* count) {
  return plugin::guard(from(context)->host(), [&]() -> eb_status* {
    from(context)->read_profile(entries, count);
    return nullptr;
  });
}

const eb_backend_api kApi = {
    .struct_size = sizeof(eb_backend_api),
    .abi_major = EB_ABI_MAJOR,
    .abi_minor = EB_ABI_MINOR,
    .features = EB_FEATURE_CANCEL | EB_FEATURE_PROFILE | EB_FEATURE_CONCURRENT,
    .name = "reference",
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
    .cancel = cancel,
    .profile_read = profile_read,
    .model_settle = nullptr,
};

}  // namespace
}  // namespace edgebuild::reference

EDGEBUILD_PLUGIN_QUERY(uint32_t host_major, uint32_t host_minor) {
  return eb_abi_compatible(EB_ABI_MAJOR, EB_ABI_MINOR, host_major, host_minor) ? &edgebuild::reference::kApi : nullptr;
}
