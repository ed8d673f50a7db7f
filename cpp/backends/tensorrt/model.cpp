#include <unistd.h>

#include <algorithm>

#include "bundle/sha256.hpp"
#include "tensorrt/backend.hpp"

namespace edgebuild::tensorrt {
namespace {

std::span<const std::byte> bytes_of(const eb_file& file) {
  return {static_cast<const std::byte*>(file.data), static_cast<std::size_t>(file.size)};
}

Progress progress_of(const eb_model_config& config) {
  if (config.progress == nullptr) return {};
  return [call = config.progress, user = config.progress_user](std::string_view step, std::uint32_t done,
                                                               std::uint32_t total) {
    call(user, std::string(step).c_str(), done, total);
  };
}

/// Whether the host speaks minor 1 of the ABI, in which the fields for preparations came.
bool knows_preparation(const eb_model_config& config) noexcept {
  return config.struct_size >= offsetof(eb_model_config, progress_user) + sizeof(config.progress_user);
}

constexpr char kPrepare[] = "; `edgerun prepare BUNDLE` builds it on this machine (run waits for it with --wait)";

}  // namespace

eb_status* give(const eb_host_api& host, const Status& status) noexcept {
  if (status.ok()) return nullptr;
  return plugin::make_error(host, static_cast<eb_code>(status.code()), status.message());
}

Status Backend::create(const eb_host_api& host, const eb_backend_config& config, std::unique_ptr<Backend>* out) {
  if (config.engine_library != nullptr) {
    return Status(Code::kUsage, "the tensorrt backend takes TensorRT from the system, but the variant names a library");
  }
  std::unique_ptr<Backend> backend(new Backend(host));
  edgebuild::Result<std::unique_ptr<Engine>> engine = open_engine(host);
  if (!engine.ok()) return engine.status();
  backend->engine_ = std::move(engine).value();
  edgebuild::Result<std::shared_ptr<const Cuda>> cuda = Cuda::open();
  if (!cuda.ok()) return cuda.status();
  backend->cuda_ = std::move(cuda).value();
  *out = std::move(backend);
  return {};
}

Result<MachineKey> Backend::machine(std::uint32_t device) const {
  Result<std::string> gpu = cuda_->describe_device(device);
  if (!gpu.ok()) return gpu.status();
  return MachineKey{engine_->version(), cuda_->runtime_version(), std::move(gpu).value()};
}

Status Model::load(Backend& backend, const eb_model_config& config, std::unique_ptr<Model>* out) {
  std::map<std::string, std::string> options;
  for (std::size_t i = 0; i < config.option_count; ++i) options[config.options[i].name] = config.options[i].value;
  Result<Recipe> recipe = parse_recipe(options);
  if (!recipe.ok()) return recipe.status();
  if (config.file_count != 1) {
    return Status(Code::kUnsupported, std::string("the tensorrt backend takes a model with its weights in one file, ") +
                                          config.files[0].path + " has " + std::to_string(config.file_count - 1) +
                                          " beside it");
  }
  const eb_file& onnx = config.files[0];
  std::unique_ptr<Model> model(new Model(backend));
  model->recipe_ = std::move(recipe).value();
  EDGEBUILD_RETURN_IF_ERROR(backend.cuda()->use(model->recipe_.device));
  Result<MachineKey> machine = backend.machine(model->recipe_.device);
  if (!machine.ok()) return machine.status();
  model->key_ = {bundle::sha256_hex(onnx.data, static_cast<std::size_t>(onnx.size)), model->recipe_.text(),
                 std::move(machine).value()};
  const bool told = knows_preparation(config);
  const std::uint32_t preparation = told ? config.preparation : std::uint32_t{EB_PREPARATION_NONE};
  if (!told || config.state_dir == nullptr) {
    return Status(preparation == EB_PREPARATION_NONE ? Code::kNotFound : Code::kUsage,
                  "there is no state folder that could hold a plan: neither XDG_STATE_HOME nor HOME is an absolute "
                  "path; give --state-dir DIR");
  }
  model->store_.emplace(config.state_dir, ::geteuid());
  EDGEBUILD_RETURN_IF_ERROR(preparation == EB_PREPARATION_NONE
                                ? model->load_ready()
                                : model->prepare(onnx, preparation == EB_PREPARATION_REMAKE, progress_of(config)));
  EDGEBUILD_RETURN_IF_ERROR(model->find_ports(config));
  *out = std::move(model);
  return {};
}

Status Model::load_ready() {
  Result<Bytes> plan = store_->ready(key_);
  if (!plan.ok()) return Status(Code::kNotFound, plan.status().message() + kPrepare);
  const Status loaded = open_plan(plan.value());
  if (loaded.ok() || loaded.code() == Code::kResourceExhausted) return loaded;
  return Status(Code::kNotFound, "the plan does not load: " + loaded.message() + kPrepare);
}

Status Model::prepare(const eb_file& onnx, bool anew, const Progress& progress) {
  const auto try_ready = [&] {
    Result<Bytes> plan = store_->ready(key_);
    return plan.ok() && open_plan(plan.value()).ok();
  };
  if (!anew && try_ready()) return {};
  Result<BuilderLock> lock = store_->lock(progress);
  if (!lock.ok()) return lock.status();
  lock_.emplace(std::move(lock).value());
  if (!anew && try_ready()) {  // Another process built it while this one waited.
    lock_.reset();
    return {};
  }
  unjudged_ = true;
  if (!anew) {  // A build whose process ended before the verdict need not be done again.
    Result<Bytes> pending = store_->pending(key_);
    if (pending.ok() && open_plan(pending.value()).ok()) return {};
  }
  return build(onnx, progress);
}

Status Model::build(const eb_file& onnx, const Progress& progress) {
  EDGEBUILD_RETURN_IF_ERROR(store_->remove(key_));
  FreeSpace free = free_space(store_->folder());
  Result<std::uint64_t> device = backend_.cuda()->free_memory(recipe_.device);
  if (!device.ok()) return device.status();
  free.device_bytes = device.value();
  EDGEBUILD_RETURN_IF_ERROR(check_space(build_needs(onnx.size, recipe_.workspace_mib), free, store_->folder()));
  std::optional<Bytes> cache;
  if (recipe_.timing_cache) cache = store_->timing_cache(key_.machine);
  Result<BuiltPlan> built =
      backend_.engine().build(bytes_of(onnx), recipe_, cache ? cache->span() : std::span<const std::byte>(), progress);
  if (!built.ok()) return built.status();
  EDGEBUILD_RETURN_IF_ERROR(store_->keep(key_, backend_.cuda()->driver_version(), built.value().plan.span()));
  if (recipe_.timing_cache && built.value().timing_cache.size() != 0) {
    const Status kept = store_->keep_timing_cache(key_.machine, built.value().timing_cache.span());
    if (!kept.ok()) plugin::log(backend_.host(), EB_LOG_INFO, "the timing cache is not kept: " + kept.message());
  }
  return open_plan(built.value().plan);
}

Status Model::open_plan(const Bytes& plan) {
  Result<std::unique_ptr<Plan>> opened = backend_.engine().load(plan.span(), recipe_);
  if (!opened.ok()) return opened.status();
  plan_ = std::move(opened).value();
  return {};
}

Status Model::find_ports(const eb_model_config& config) {
  const auto find = [&](const char* name, bool is_input) -> std::optional<TensorInfo> {
    for (const TensorInfo& tensor : plan_->tensors()) {
      if (tensor.is_input == is_input && tensor.name == name) return tensor;
    }
    return std::nullopt;
  };
  for (std::size_t i = 0; i < config.input_count; ++i) {
    const char* const name = config.input_names[i];
    if (name == nullptr) {
      inputs_.push_back({});
      continue;
    }
    // TensorRT leaves out inputs that no output depends on.
    inputs_.push_back({name, find(name, /*is_input=*/true)});
  }
  for (std::size_t i = 0; i < config.output_count; ++i) {
    Port port{config.output_names[i], find(config.output_names[i], /*is_input=*/false)};
    if (!port.tensor) return Status(Code::kCorrupt, "the model has no output '" + port.name + "'");
    outputs_.push_back(std::move(port));
  }
  for (const TensorInfo& tensor : plan_->tensors()) {
    if (!tensor.is_input) continue;
    const bool given = std::any_of(inputs_.begin(), inputs_.end(),
                                   [&](const Port& port) { return port.tensor && port.tensor->name == tensor.name; });
    if (!given) return Status(Code::kCorrupt, "the model needs an input '" + tensor.name + "' that the variant lacks");
  }
  return {};
}

Status Model::settle(bool good) {
  if (!unjudged_) return {};
  const Status status = store_->settle(key_, good);
  unjudged_ = false;
  lock_.reset();
  return status;
}

}  // namespace edgebuild::tensorrt
