#include "edgebuild/runner.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>

#include "bundle/bundle.hpp"
#include "runner/access.hpp"
#include "runner/cancellation.hpp"
#include "runner/host_api.hpp"
#include "runner/model.hpp"
#include "runner/preprocess.hpp"
#include "runner/requirements.hpp"
#include "runner/select.hpp"

namespace edgebuild {

namespace {

/// No exception crosses runner.hpp: where memory runs out, that is the status. (A length_error is thrown for what no
/// memory could hold, on a 32-bit board.)
template <typename Body>
auto within_memory(Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Status(Code::kResourceExhausted, "out of memory");  // Short enough for a string's own bytes.
  } catch (const std::length_error&) {
    return Status(Code::kResourceExhausted, "out of memory");
  }
}

/// A context of the pool for one run, however the run ends.
class Lease {
 public:
  explicit Lease(runner::LoadedModel& model) noexcept : model_(model) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    if (context_ != nullptr) model_.release(context_);
  }
  Status take() { return model_.acquire(&context_); }
  [[nodiscard]] runner::LoadedModel::Context& context() noexcept { return *context_; }

 private:
  runner::LoadedModel& model_;
  runner::LoadedModel::Context* context_ = nullptr;
};

}  // namespace

struct Runner::Impl {
  bundle::Bundle bundle;
  std::shared_ptr<const LogFunction> log;
  runner::Choice choice;
  const bundle::Variant* variant = nullptr;  // the choice's
  runner::LoadedModel* model = nullptr;      // likewise
  std::string engine_version;
  bool keeps_state = false;
  std::mutex state_mutex;  // Held by a run of a model that keeps state: it has one context.

  explicit Impl(bundle::Bundle opened) : bundle(std::move(opened)) {}
  Status run(std::span<const eb_value> inputs, std::span<eb_value> outputs, const RunOptions& options) {
    return within_memory([&] { return choose_context_and_run(inputs, outputs, options); });
  }
  Status choose_context_and_run(std::span<const eb_value> inputs, std::span<eb_value> outputs,
                                const RunOptions& options);
  Status run_in(runner::LoadedModel::Context& context, std::span<const eb_value> inputs, std::span<eb_value> outputs,
                const RunOptions& options);
};

namespace {

/// Makes room for a new result where an earlier run left what the backend allocated then.
void release_earlier_results(std::span<eb_value> outputs) {
  for (eb_value& output : outputs) {
    if (output.release == nullptr || output.byte_capacity != 0) continue;
    output.release(&output);
    output = Value().raw();
  }
}

/// On CLOCK_MONOTONIC, which steady_clock is on Linux; never 0, which would mean "none".
std::int64_t deadline_ns(std::chrono::steady_clock::time_point deadline) noexcept {
  const auto since = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch()).count();
  return std::max<std::int64_t>(since, 1);
}

/// It is made when there is something to keep, so it need not exist.
Status check_state_dir(const std::string& path) {
  struct stat info = {};
  if (path.empty() || ::stat(path.c_str(), &info) != 0 || S_ISDIR(info.st_mode)) return {};
  return Status(Code::kUsage, "state folder " + path + ": expected a folder, it is something else");
}

}  // namespace

Runner::Runner(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Runner::Runner(Runner&&) noexcept = default;
Runner& Runner::operator=(Runner&&) noexcept = default;
Runner::~Runner() = default;

Result<Runner> Runner::load(const std::string& path, const LoadOptions& options) {
  return RunnerAccess::load(path, options, {});
}

Result<Runner> RunnerAccess::load(const std::string& path, const LoadOptions& options,
                                  const std::function<Status(const bundle::Bundle&)>& opened_hook) {
  return within_memory([&] { return open_and_load(path, options, opened_hook); });
}

Result<Runner> RunnerAccess::open_and_load(const std::string& path, const LoadOptions& options,
                                           const std::function<Status(const bundle::Bundle&)>& opened_hook) {
  const auto log = options.log ? std::make_shared<const LogFunction>(options.log) : nullptr;
  if (log != nullptr) runner::set_background_log(log);
  const runner::LogScope scope(log);
  EDGEBUILD_RETURN_IF_ERROR(check_state_dir(options.state_dir));
  Result<bundle::Bundle> opened = bundle::Bundle::open(path, {options.cache_dir, options.runtime_path});
  if (!opened.ok()) return opened.status();
  if (opened_hook) EDGEBUILD_RETURN_IF_ERROR(opened_hook(opened.value()));
  auto impl = std::make_unique<Runner::Impl>(std::move(opened).value());
  impl->log = log;
  EDGEBUILD_RETURN_IF_ERROR(runner::select_variant(impl->bundle, options, &impl->choice).with_context(path));
  impl->variant = impl->choice.variant;
  impl->model = impl->choice.model.get();
  impl->engine_version = impl->model->engine_version();
  impl->keeps_state = impl->bundle.manifest().keeps_state();
  return Runner(std::move(impl));
}

Result<std::optional<Runner>> RunnerAccess::prepare(const bundle::Bundle& bundle, const std::string& variant,
                                                    const LoadOptions& options, const runner::Preparing& preparing) {
  const auto log = options.log ? std::make_shared<const LogFunction>(options.log) : nullptr;
  if (log != nullptr) runner::set_background_log(log);
  const runner::LogScope scope(log);
  EDGEBUILD_RETURN_IF_ERROR(check_state_dir(options.state_dir));
  auto impl = std::make_unique<Runner::Impl>(bundle);  // A copy: what is found in it lives as long as the Runner.
  const auto& variants = impl->bundle.manifest().variants;
  const auto found = std::find_if(variants.begin(), variants.end(), [&](const auto& v) { return v.name == variant; });
  if (found == variants.end()) return Status(Code::kUsage, "the bundle has no variant '" + variant + "'");
  if (const auto missing = runner::missing_requirement(found->requires_, runner::probe_machine())) {
    return Status(Code::kIncompatible, *missing);
  }
  Result<bool> prepares = runner::LoadedModel::prepares(impl->bundle, *found);
  if (!prepares.ok()) return prepares.status();
  if (!prepares.value()) return std::optional<Runner>();
  Result<std::unique_ptr<runner::LoadedModel>> model =
      runner::LoadedModel::load(impl->bundle, *found, options.options, options.state_dir, preparing);
  if (!model.ok()) return model.status();
  impl->log = log;
  impl->choice.variant = impl->variant = &*found;
  impl->choice.model = std::move(model).value();
  impl->choice.order.why = "one variant is asked for";
  impl->model = impl->choice.model.get();
  impl->engine_version = impl->model->engine_version();
  return std::optional<Runner>(Runner(std::move(impl)));
}

Status RunnerAccess::settle(Runner& runner, bool good) {
  const runner::LogScope scope(runner.impl_->log);
  return runner.impl_->model->settle(good);
}

const Signature& Runner::signature() const noexcept { return impl_->bundle.manifest().signature; }
const std::string& Runner::variant_name() const noexcept { return impl_->variant->name; }
const std::string& Runner::backend_name() const noexcept { return impl_->variant->backend; }
const std::string& Runner::engine_version() const noexcept { return impl_->engine_version; }
std::span<const PassedOver> Runner::passed_over() const noexcept { return impl_->choice.passed_over; }
const std::string& Runner::variant_order() const noexcept { return impl_->choice.order.why; }
bool Runner::keeps_state() const noexcept { return impl_->keeps_state; }
const std::string& Runner::bundle_id() const noexcept { return impl_->bundle.id(); }

Status Runner::Impl::run_in(runner::LoadedModel::Context& context, std::span<const eb_value> inputs,
                            std::span<eb_value> outputs, const RunOptions& options) {
  release_earlier_results(outputs);
  EDGEBUILD_RETURN_IF_ERROR(model->checker().check_inputs(inputs, context.symbols));
  EDGEBUILD_RETURN_IF_ERROR(model->checker().check_outputs(outputs));
  const eb_run_options run_options = {
      .struct_size = sizeof(eb_run_options),
      .profile = options.profile ? 1u : 0u,
      .deadline_ns = options.deadline ? deadline_ns(*options.deadline) : 0,
      .device_stream = options.device_stream,
  };
  const CancellableRun run(options.cancellation, model->api(), context.handle);
  if (run.refused()) return Status(Code::kCancelled, "the run was cancelled before it began");
  return runner::take_status(
      model->api().run(context.handle, inputs.data(), inputs.size(), outputs.data(), outputs.size(), &run_options));
}

Status Runner::Impl::choose_context_and_run(std::span<const eb_value> inputs, std::span<eb_value> outputs,
                                            const RunOptions& options) {
  const runner::LogScope scope(log);
  if (options.profile) {
    if ((model->api().features & EB_FEATURE_PROFILE) == 0) {
      return Status(Code::kUnsupported, "the backend " + variant->backend + " can't profile");
    }
    const std::lock_guard lock(model->profile_mutex());
    runner::LoadedModel::Context* context = nullptr;
    EDGEBUILD_RETURN_IF_ERROR(model->profile_context(&context));
    return run_in(*context, inputs, outputs, options);
  }
  std::unique_lock<std::mutex> one_at_a_time;
  if (keeps_state) one_at_a_time = std::unique_lock(state_mutex);
  Lease lease(*model);
  EDGEBUILD_RETURN_IF_ERROR(lease.take());
  return run_in(lease.context(), inputs, outputs, options);
}

Status Runner::reset() {
  if (!impl_->keeps_state) return {};
  return within_memory([&] {
    const runner::LogScope scope(impl_->log);
    const std::lock_guard lock(impl_->state_mutex);
    return impl_->model->reset();
  });
}

Status Runner::run(std::span<const Value> inputs, std::span<Value> outputs, const RunOptions& options) {
  // A Value is an eb_value and nothing else (asserted in value.cpp), so arrays of them are handed on as they are.
  return impl_->run({reinterpret_cast<const eb_value*>(inputs.data()), inputs.size()},
                    {reinterpret_cast<eb_value*>(outputs.data()), outputs.size()}, options);
}

Status RunnerAccess::run(Runner& runner, std::span<const eb_value> inputs, std::span<eb_value> outputs,
                         const RunOptions& options) {
  return runner.impl_->run(inputs, outputs, options);
}

Result<Value> RunnerAccess::preprocess(const Runner& runner, std::string_view name, const eb_value& images) {
  return within_memory([&] { return find_and_preprocess(runner, name, images); });
}

Result<Value> RunnerAccess::find_and_preprocess(const Runner& runner, std::string_view name, const eb_value& images) {
  const auto& known = runner.impl_->bundle.manifest().preprocessing;
  const auto found = known.find(name);
  if (found == known.end()) {
    std::string names;
    for (const auto& [input, spec] : known) names.append(names.empty() ? "'" : ", '").append(input).append("'");
    return Status(Code::kNotFound, "the bundle has no preprocessing for '" + std::string(name) + "'" +
                                       (names.empty() ? "" : "; it has it for " + names));
  }
  Result<Value> made = runner::preprocess_images(found->second, images);
  if (!made.ok()) return made.status().with_context("input '" + found->first + "'");
  return made;
}

bool RunnerAccess::has_preprocessing(const Runner& runner, std::string_view name) noexcept {
  return runner.impl_->bundle.manifest().preprocessing.contains(name);
}

Result<Value> Runner::preprocess(std::string_view name, const Value& images) const {
  return RunnerAccess::preprocess(*this, name, images.raw());
}

const runner::VariantOrder& RunnerAccess::order(const Runner& runner) noexcept { return runner.impl_->choice.order; }
std::uint64_t RunnerAccess::hashed_bytes(const Runner& runner) noexcept { return runner.impl_->bundle.hashed_bytes(); }
std::uint64_t RunnerAccess::hashing_ns(const Runner& runner) noexcept { return runner.impl_->bundle.hashing_ns(); }

Result<std::vector<ProfileEntry>> Runner::profile() const {
  if ((impl_->model->api().features & EB_FEATURE_PROFILE) == 0) {
    return Status(Code::kUnsupported, "the backend " + backend_name() + " can't profile");
  }
  const runner::LogScope scope(impl_->log);
  return within_memory([&]() -> Result<std::vector<ProfileEntry>> {
    std::vector<ProfileEntry> entries;
    EDGEBUILD_RETURN_IF_ERROR(impl_->model->read_profile(&entries));
    return entries;
  });
}

const char* version() noexcept { return EDGEBUILD_VERSION; }

}  // namespace edgebuild
