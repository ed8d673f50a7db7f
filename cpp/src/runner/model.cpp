#include "runner/model.hpp"

#include "runner/engine.hpp"
#include "runner/host_api.hpp"
#include "runner/tuning.hpp"

namespace edgebuild::runner {
namespace {

const TypeSpec& held_by_optional(const TypeSpec& type) noexcept {
  return type.kind == EB_KIND_OPTIONAL && type.element ? *type.element : type;
}

void forward_progress(void* preparing, const char* step, std::uint32_t done, std::uint32_t total) {
  static_cast<const Preparing*>(preparing)->progress(step, done, total);
}

DType element_dtype(const TypeSpec& type) noexcept {
  return type.kind == EB_KIND_TENSOR || !type.element ? type.dtype : element_dtype(*type.element);
}

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const bundle::Bundle& bundle, const bundle::Variant& variant,
                                                       const std::map<std::string, std::string>& options,
                                                       const std::string& state_dir, const Preparing& preparing,
                                                       const std::map<std::string, EngineFolder>& engine_folders) {
  const Signature& signature = bundle.manifest().signature;
  std::unique_ptr<LoadedModel> loaded(new LoadedModel(signature));
  Result<std::shared_ptr<BackendInstance>> backend = start_backend(bundle, variant, engine_folders);
  if (!backend.ok()) return backend.status();
  loaded->backend_ = std::move(backend).value();

  std::vector<std::string> paths{variant.model};
  paths.insert(paths.end(), variant.data.begin(), variant.data.end());
  std::vector<eb_file> files;
  for (const std::string& path : paths) {
    Result<std::shared_ptr<const bundle::MappedFile>> file = bundle.map(path);
    if (!file.ok()) return file.status();
    files.push_back({path.c_str(), file.value()->data(), file.value()->size()});
    loaded->files_.push_back(std::move(file).value());
  }

  std::map<std::string, std::string> merged = options;  // The caller's win.
  merged.insert(variant.options.begin(), variant.options.end());
  std::vector<eb_option> option_list;
  for (const auto& [name, value] : merged) option_list.push_back({name.c_str(), value.c_str()});
  std::vector<const char*> inputs;
  for (const std::optional<std::string>& name : variant.inputs) inputs.push_back(name ? name->c_str() : nullptr);
  std::vector<const char*> outputs;
  for (const std::string& name : variant.outputs) outputs.push_back(name.c_str());
  const std::string state = state_dir.empty() ? default_state_dir(bundle.id()) : state_dir;
  const eb_model_config config = {
      .struct_size = sizeof(eb_model_config),
      .reserved = 0,
      .files = files.data(),
      .file_count = files.size(),
      .options = option_list.data(),
      .option_count = option_list.size(),
      .input_names = inputs.data(),
      .input_count = inputs.size(),
      .output_names = outputs.data(),
      .output_count = outputs.size(),
      .state_dir = state.empty() ? nullptr : state.c_str(),
      .preparation = preparing.mode,
      .reserved_1 = 0,
      .progress = preparing.progress ? forward_progress : nullptr,
      .progress_user = const_cast<Preparing*>(&preparing),
  };
  EDGEBUILD_RETURN_IF_ERROR(take_status(loaded->api().model_load(loaded->backend_->backend, &config, &loaded->model_)));
  EDGEBUILD_RETURN_IF_ERROR(loaded->check_against_signature(signature));
  Context* context = nullptr;  // The first one is made here, so that what it lacks shows at load.
  EDGEBUILD_RETURN_IF_ERROR(loaded->acquire(&context));
  loaded->release(context);
  return loaded;
}

Result<bool> LoadedModel::prepares(const bundle::Bundle& bundle, const bundle::Variant& variant) {
  if (!variant.plugin) {  // Built in: its table says it, no engine need be opened.
    Result<const eb_backend_api*> api = find_builtin(variant.backend);
    if (!api.ok()) return api.status();
    return (api.value()->features & EB_FEATURE_PREPARE) != 0;
  }
  Result<std::shared_ptr<BackendInstance>> backend = start_backend(bundle, variant, {});
  if (!backend.ok()) return backend.status();
  return (backend.value()->api->features & EB_FEATURE_PREPARE) != 0;
}

Status LoadedModel::settle(bool good) {
  if ((api().features & EB_FEATURE_PREPARE) == 0) return {};
  return take_status(api().model_settle(model_, good ? 1 : 0));
}

LoadedModel::~LoadedModel() {
  profile_context_.reset();
  contexts_.clear();
  if (model_ != nullptr) api().model_destroy(model_);
}

std::string LoadedModel::engine_version() const {
  const char* const version = api().backend_engine_version(backend_->backend);
  return version != nullptr ? version : "";
}

Status LoadedModel::check_against_signature(const Signature& signature) const {
  const auto check = [](const char* noun, const ValueSpec& spec, const eb_io_info& info) -> Status {
    const DType wanted = element_dtype(held_by_optional(spec.type));
    if (info.dtype == EB_DTYPE_UNDEFINED || wanted == EB_DTYPE_UNDEFINED ||
        info.dtype == static_cast<std::uint32_t>(wanted)) {
      return {};
    }
    return Status(Code::kCorrupt, std::string(noun) + " '" + spec.name + "' is " + to_string(spec.type) +
                                      " in the manifest, but the model has " +
                                      dtype_name(static_cast<DType>(info.dtype)));
  };
  eb_io_info info{};
  info.struct_size = sizeof(info);
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const Status status = take_status(api().model_input_info(model_, i, &info));
    if (status.code() == Code::kNotFound) continue;  // The graph does not use it.
    EDGEBUILD_RETURN_IF_ERROR(status);
    EDGEBUILD_RETURN_IF_ERROR(check("input", signature.inputs[i], info));
  }
  for (std::size_t i = 0; i < signature.outputs.size(); ++i) {
    EDGEBUILD_RETURN_IF_ERROR(take_status(api().model_output_info(model_, i, &info)));
    EDGEBUILD_RETURN_IF_ERROR(check("output", signature.outputs[i], info));
  }
  return {};
}

Status LoadedModel::create_context(std::unique_ptr<Context>* out) {
  auto context = std::make_unique<Context>(api());
  context->symbols = checker_.make_symbol_sizes();
  EDGEBUILD_RETURN_IF_ERROR(take_status(api().context_create(model_, &context->handle)));
  *out = std::move(context);
  return {};
}

Status LoadedModel::acquire(Context** out) {
  {
    const std::lock_guard lock(pool_mutex_);
    if (!idle_.empty()) {
      *out = idle_.back();  // The last one used has its buffers bound and its caches warm.
      idle_.pop_back();
      return {};
    }
  }
  std::unique_ptr<Context> context;
  EDGEBUILD_RETURN_IF_ERROR(create_context(&context));
  const std::lock_guard lock(pool_mutex_);
  idle_.reserve(contexts_.size() + 1);
  contexts_.push_back(std::move(context));
  *out = contexts_.back().get();
  return {};
}

void LoadedModel::release(Context* context) noexcept {
  const std::lock_guard lock(pool_mutex_);
  idle_.push_back(context);
}

Status LoadedModel::reset() {
  std::unique_ptr<Context> fresh;  // Made first: where it can't be, the old state stays.
  EDGEBUILD_RETURN_IF_ERROR(create_context(&fresh));
  const std::lock_guard lock(pool_mutex_);
  contexts_.clear();
  idle_.clear();
  contexts_.push_back(std::move(fresh));
  idle_.push_back(contexts_.back().get());
  return {};
}

Status LoadedModel::profile_context(Context** out) {
  if (profile_context_ == nullptr) EDGEBUILD_RETURN_IF_ERROR(create_context(&profile_context_));
  *out = profile_context_.get();
  return {};
}

Status LoadedModel::read_profile(std::vector<ProfileEntry>* out) {
  const std::lock_guard lock(profile_mutex_);
  if (profile_context_ == nullptr) return {};
  const eb_profile_entry* entries = nullptr;
  std::size_t count = 0;
  EDGEBUILD_RETURN_IF_ERROR(take_status(api().profile_read(profile_context_->handle, &entries, &count)));
  for (std::size_t i = 0; i < count; ++i) {
    const auto text = [](const char* string) { return std::string(string != nullptr ? string : ""); };
    out->push_back({text(entries[i].node), text(entries[i].op_type), text(entries[i].provider), entries[i].duration_ns,
                    entries[i].calls});
  }
  return {};
}

}  // namespace edgebuild::runner
