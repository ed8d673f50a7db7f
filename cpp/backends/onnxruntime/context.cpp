#include "onnxruntime/context.hpp"

#include <cstring>

namespace edgebuild::onnxruntime {
namespace {

/// Whether the engine may go on using what it made from `seen`. Only plain bytes: what it copied may have changed.
bool reusable(const eb_value& seen, const eb_value& now) noexcept {
  return now.kind == EB_KIND_TENSOR && now.dtype != EB_STRING && seen.data == now.data &&
         seen.byte_size == now.byte_size && seen.device_type == now.device_type && same_shape(seen, now);
}

}  // namespace

eb_status* Context::create(Model& model, Context** out) {
  const Backend& backend = model.backend();
  const OrtApi& api = backend.api();
  std::unique_ptr<Context> context(new Context(model));
  OrtRunOptions* options = nullptr;
  EDGEBUILD_PLUGIN_TRY(backend.take(api.CreateRunOptions(&options), "run options"));
  context->run_options_ = backend.own(options, api.ReleaseRunOptions);
  // What goes wrong in a run comes back as its status; said in the log too, it would be said twice.
  EDGEBUILD_PLUGIN_TRY(
      backend.take(api.RunOptionsSetRunLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL), "run options"));
  context->scratch_.resize(model.outputs().size());
  EDGEBUILD_PLUGIN_TRY(context->make_bindings(model.session(), &context->bindings_));
  *out = context.release();
  return nullptr;
}

Context::~Context() {
  // A profile that nobody read: the engine's file must not stay behind.
  if (eb_status* const status = end_profile()) backend().host().status_destroy(backend().host().user, status);
}

eb_status* Context::make_bindings(OrtSession* session, Bindings* out) {
  const OrtApi& api = backend().api();
  OrtIoBinding* binding = nullptr;
  EDGEBUILD_PLUGIN_TRY(backend().take(api.CreateIoBinding(session, &binding), "buffers"));
  out->session = session;
  out->binding = backend().own(binding, api.ReleaseIoBinding);
  out->inputs.resize(model_.inputs().size());
  out->outputs.resize(model_.outputs().size());
  // Binding every output once, in order, fixes the order in which the engine hands them out.
  for (std::size_t i = 0; i < out->outputs.size(); ++i) EDGEBUILD_PLUGIN_TRY(bind_to_device(*out, i));
  return nullptr;
}

eb_status* Context::run(const eb_value* inputs, std::size_t input_count, eb_value* outputs, std::size_t output_count,
                        const eb_run_options* options) {
  if (input_count != model_.inputs().size() || output_count != model_.outputs().size()) {
    return plugin::make_error(backend().host(), EB_INVALID_ARGUMENT, "another number of values than the model has");
  }
  Bindings* bindings = &bindings_;
  if (options != nullptr && options->profile != 0) {
    EDGEBUILD_PLUGIN_TRY(begin_profile());
    bindings = profile_bindings_.get();
  }
  EDGEBUILD_PLUGIN_TRY(bind_inputs(*bindings, inputs));
  EDGEBUILD_PLUGIN_TRY(execute(*bindings, outputs, options));
  return collect(*bindings, outputs);
}

eb_status* Context::bind_inputs(Bindings& bindings, const eb_value* inputs) {
  const OrtApi& api = backend().api();
  bool same_shapes = true;
  for (std::size_t i = 0; i < bindings.inputs.size(); ++i) {
    if (inputs[i].kind != EB_KIND_NONE || !bindings.inputs[i].value) continue;
    // The engine takes an input that is not bound for an absent one, but a binding can only let go of all inputs.
    unbind_inputs(bindings);
    same_shapes = false;
    break;
  }
  for (std::size_t i = 0; i < bindings.inputs.size(); ++i) {
    const Port& port = model_.inputs()[i];
    Slot& slot = bindings.inputs[i];
    if (!port.used) continue;
    if (inputs[i].kind == EB_KIND_NONE) {
      if (port.may_be_absent) continue;
      return plugin::make_error(backend().host(), EB_INVALID_ARGUMENT, "input '" + port.name + "' can't be absent");
    }
    if (slot.value && reusable(slot.seen, inputs[i])) continue;
    same_shapes = same_shapes && inputs[i].kind == EB_KIND_TENSOR && same_shape(slot.seen, inputs[i]);
    slot.seen = {};
    OrtValue* value = nullptr;
    EDGEBUILD_PLUGIN_TRY(make_value(model_, port, inputs[i], &value));
    slot.value = backend().own(value, api.ReleaseValue);
    EDGEBUILD_PLUGIN_TRY(
        backend().take(api.BindInput(bindings.binding.get(), port.name.c_str(), value), "input", port.name));
    slot.seen = inputs[i];
  }
  if (!same_shapes) {
    for (OutputSlot& output : bindings.outputs) output.expected_valid = false;
  }
  return nullptr;
}

void Context::unbind_inputs(Bindings& bindings) {
  backend().api().ClearBoundInputs(bindings.binding.get());
  for (Slot& slot : bindings.inputs) slot = {};
}

eb_status* Context::bind_to_device(Bindings& bindings, std::size_t index) {
  OutputSlot& output = bindings.outputs[index];
  if (output.to_device) return nullptr;
  const Port& port = model_.outputs()[index];
  output.slot.value.reset();
  EDGEBUILD_PLUGIN_TRY(
      backend().take(backend().api().BindOutputToDevice(bindings.binding.get(), port.name.c_str(), backend().cpu()),
                     "output", port.name));
  output.to_device = true;
  return nullptr;
}

eb_status* Context::bind_outputs(Bindings& bindings, const eb_value* outputs) {
  const OrtApi& api = backend().api();
  for (std::size_t i = 0; i < bindings.outputs.size(); ++i) {
    OutputSlot& output = bindings.outputs[i];
    const bool ahead = outputs[i].kind == EB_KIND_TENSOR && output.expected_valid && !output.doubtful &&
                       !model_.is_volatile(i) && output.expected.byte_size <= outputs[i].byte_capacity;
    if (!ahead) {
      EDGEBUILD_PLUGIN_TRY(bind_to_device(bindings, i));
      continue;
    }
    eb_value wanted = output.expected;
    wanted.data = outputs[i].data;
    if (output.slot.value && reusable(output.slot.seen, wanted)) continue;
    const Port& port = model_.outputs()[i];
    output.slot.value.reset();
    OrtValue* value = nullptr;
    EDGEBUILD_PLUGIN_TRY(make_value(model_, port, wanted, &value));
    output.slot.value = backend().own(value, api.ReleaseValue);
    output.slot.seen = wanted;
    output.to_device = false;
    EDGEBUILD_PLUGIN_TRY(
        backend().take(api.BindOutput(bindings.binding.get(), port.name.c_str(), value), "output", port.name));
  }
  return nullptr;
}

eb_status* Context::execute(Bindings& bindings, const eb_value* outputs, const eb_run_options* options) {
  EDGEBUILD_PLUGIN_TRY(bind_outputs(bindings, outputs));
  eb_status* const status = run_engine(bindings, options);
  if (status == nullptr) return nullptr;
  // The model may have declared a wrong shape: then the engine stopped at a bound output that turned out otherwise. It
  // may as well be anything else, so nothing is run again; the next run lets the engine allocate, and compares.
  for (OutputSlot& output : bindings.outputs) output.doubtful = output.doubtful || !output.to_device;
  return status;
}

eb_status* Context::run_engine(Bindings& bindings, const eb_run_options* options) {
  const OrtApi& api = backend().api();
  const std::int64_t deadline_ns = options != nullptr ? options->deadline_ns : 0;
  if (deadline_ns != 0) {
    deadline_.deadline = std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::nanoseconds(deadline_ns)));
    if (deadline_.deadline <= std::chrono::steady_clock::now()) {
      return plugin::make_error(backend().host(), EB_DEADLINE_EXCEEDED, "the deadline had passed before the run began");
    }
  }
  {
    const std::lock_guard lock(state_);
    running_ = true;
    stop_ = Stop::kNo;
  }
  if (deadline_ns != 0) {
    deadline_.argument = this;
    deadline_.callback = [](void* context) { static_cast<Context*>(context)->stop(Stop::kDeadline); };
    backend().watchdog().watch(deadline_);
  }
  OrtStatus* const status = api.RunWithBinding(bindings.session, run_options_.get(), bindings.binding.get());
  if (deadline_ns != 0) backend().watchdog().forget(deadline_);
  Stop why = Stop::kNo;
  {
    const std::lock_guard lock(state_);
    running_ = false;
    why = stop_;
    if (why != Stop::kNo) backend().discard(api.RunOptionsUnsetTerminate(run_options_.get()));
  }
  if (status == nullptr) return nullptr;  // Also if the stop came too late to stop anything.
  if (why != Stop::kNo) {
    backend().discard(status);
    return why == Stop::kCancel
               ? plugin::make_error(backend().host(), EB_CANCELLED, "the run was cancelled")
               : plugin::make_error(backend().host(), EB_DEADLINE_EXCEEDED, "the run did not end before its deadline");
  }
  return explain_failure(bindings, status);
}

void Context::stop(Stop why) {
  const std::lock_guard lock(state_);
  if (!running_ || stop_ != Stop::kNo) return;
  stop_ = why;
  backend().discard(backend().api().RunOptionsSetTerminate(run_options_.get()));
}

eb_status* Context::cancel() {
  stop(Stop::kCancel);
  return nullptr;
}

}  // namespace edgebuild::onnxruntime
