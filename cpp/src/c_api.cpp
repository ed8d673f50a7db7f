// edgebuild.h over runner.hpp. No exception leaves a function: only memory can run out here.

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "edgebuild/edgebuild.h"
#include "edgebuild/runner.hpp"
#include "runner/access.hpp"
#include "runner/check.hpp"

/// What the C API hands out: a Runner, and texts made once.
struct eb_runner {
  edgebuild::Runner runner;
  std::vector<std::string> input_types;
  std::vector<std::string> output_types;
};

struct eb_cancellation {
  edgebuild::Cancellation cancellation;
};

namespace {

using edgebuild::Code;
using edgebuild::Status;

thread_local std::string last_error;

eb_code report(const Status& status) noexcept {
  if (status.ok()) return EB_OK;
  try {
    last_error = status.message();
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return static_cast<eb_code>(status.code());
}

template <typename Body>
eb_code guard(Body&& body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    last_error.clear();
    return EB_RESOURCE_EXHAUSTED;
  } catch (const std::exception& exception) {
    return report(Status(Code::kInternal, exception.what()));
  }
}

std::string text_or_empty(const char* text) { return text != nullptr ? text : ""; }

edgebuild::LoadOptions convert(const eb_load_options* given) {
  eb_load_options options;
  eb_load_options_init(&options);
  // A caller compiled against an older header gives a shorter struct; what it lacks keeps its default.
  if (given != nullptr) std::memcpy(&options, given, std::min<std::size_t>(given->struct_size, sizeof(options)));
  edgebuild::LoadOptions converted;
  converted.backend = text_or_empty(options.backend);
  converted.variant = text_or_empty(options.variant);
  converted.allow_fallback = options.no_fallback == 0;
  for (std::size_t i = 0; i < options.option_count; ++i) {
    converted.options[options.options[i].name] = options.options[i].value;
  }
  converted.runtime_path = text_or_empty(options.runtime_path);
  converted.state_dir = text_or_empty(options.state_dir);
  converted.cache_dir = text_or_empty(options.cache_dir);
  converted.tuning = options.no_tuning == 0;
  for (std::size_t i = 0; i < options.engine_folder_count; ++i) {
    const eb_engine_folder& folder = options.engine_folders[i];
    converted.engine_folders[folder.engine] = {folder.path, folder.version};
  }
  if (options.log != nullptr) {
    converted.log = [log = options.log, user = options.log_user](eb_severity severity, std::string_view message) {
      log(user, severity, message.data(), message.size());
    };
  }
  return converted;
}

edgebuild::RunOptions convert(const eb_run_options* given) {
  eb_run_options options{};
  if (given != nullptr) std::memcpy(&options, given, std::min<std::size_t>(given->struct_size, sizeof(options)));
  edgebuild::RunOptions converted;
  converted.profile = options.profile != 0;
  converted.device_stream = options.device_stream;
  if (options.deadline_ns != 0) {
    converted.deadline = std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::nanoseconds(options.deadline_ns)));
  }
  return converted;
}

Status describe(const std::vector<edgebuild::ValueSpec>& specs, std::size_t index, eb_io_info* out) {
  if (index >= specs.size()) {
    return Status(Code::kNotFound,
                  "there is no index " + std::to_string(index) + ", there are " + std::to_string(specs.size()));
  }
  const edgebuild::ValueSpec& spec = specs[index];
  eb_io_info info{};
  info.struct_size = std::min<std::uint32_t>(out->struct_size, sizeof(info));
  info.kind = static_cast<std::uint32_t>(spec.type.kind);
  info.name = spec.name.c_str();
  const edgebuild::TypeSpec* type = &spec.type;
  while (type->kind != EB_KIND_TENSOR && type->element) type = type->element.get();
  info.dtype = static_cast<std::uint32_t>(type->dtype);
  info.rank = -1;
  if (type->shape) {
    info.rank = static_cast<std::int32_t>(type->shape->size());
    for (std::size_t i = 0; i < type->shape->size(); ++i) {
      const edgebuild::Dim& dim = (*type->shape)[i];
      info.shape[i] = dim.kind == edgebuild::Dim::Kind::kFixed ? dim.size : -1;
    }
  }
  std::memcpy(out, &info, info.struct_size);
  return {};
}

const char* text_at(const std::vector<std::string>& texts, std::size_t index) noexcept {
  return index < texts.size() ? texts[index].c_str() : nullptr;
}

}  // namespace

const char* eb_version(void) { return edgebuild::version(); }
const char* eb_last_error(void) { return last_error.c_str(); }
const char* eb_code_name(eb_code code) { return edgebuild::code_name(static_cast<Code>(code)); }
int eb_exit_code(eb_code code) { return edgebuild::exit_code(static_cast<Code>(code)); }
const char* eb_dtype_name(uint32_t dtype) { return edgebuild::dtype_name(static_cast<eb_dtype>(dtype)); }

uint64_t eb_tensor_bytes(uint32_t dtype, const int64_t* shape, size_t rank) {
  eb_value value = eb_value_view(dtype, shape, rank, nullptr, 0);
  return edgebuild::runner::tensor_byte_size(value).value_or(std::numeric_limits<std::uint64_t>::max());
}

void eb_load_options_init(eb_load_options* options) {
  *options = {};
  options->struct_size = sizeof(*options);
}

eb_code eb_runner_load(const char* path, const eb_load_options* options, eb_runner** out) {
  return guard([&]() -> Status {
    edgebuild::Result<edgebuild::Runner> loaded = edgebuild::Runner::load(path, convert(options));
    if (!loaded.ok()) return loaded.status();
    auto runner = std::make_unique<eb_runner>(eb_runner{std::move(loaded).value(), {}, {}});
    const edgebuild::Signature& signature = runner->runner.signature();
    for (const edgebuild::ValueSpec& spec : signature.inputs) runner->input_types.push_back(to_string(spec.type));
    for (const edgebuild::ValueSpec& spec : signature.outputs) runner->output_types.push_back(to_string(spec.type));
    *out = runner.release();
    return {};
  });
}

void eb_runner_free(eb_runner* runner) { delete runner; }

eb_code eb_runner_run(eb_runner* runner, const eb_value* inputs, size_t input_count, eb_value* outputs,
                      size_t output_count, const eb_run_options* options) {
  return eb_runner_run_cancellable(runner, inputs, input_count, outputs, output_count, options, nullptr);
}

eb_code eb_runner_run_cancellable(eb_runner* runner, const eb_value* inputs, size_t input_count, eb_value* outputs,
                                  size_t output_count, const eb_run_options* options, eb_cancellation* cancellation) {
  return guard([&] {
    edgebuild::RunOptions converted = convert(options);
    if (cancellation != nullptr) converted.cancellation = &cancellation->cancellation;
    return edgebuild::RunnerAccess::run(runner->runner, {inputs, input_count}, {outputs, output_count}, converted);
  });
}

uint32_t eb_runner_keeps_state(const eb_runner* runner) { return runner->runner.keeps_state() ? 1 : 0; }

eb_code eb_runner_reset(eb_runner* runner) {
  return guard([&] { return runner->runner.reset(); });
}

eb_cancellation* eb_cancellation_create(void) {
  try {
    return new eb_cancellation;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void eb_cancellation_free(eb_cancellation* cancellation) { delete cancellation; }
void eb_cancellation_cancel(eb_cancellation* cancellation) { cancellation->cancellation.cancel(); }
void eb_cancellation_reset(eb_cancellation* cancellation) { cancellation->cancellation.reset(); }

eb_code eb_runner_preprocess(const eb_runner* runner, const char* name, const eb_value* images, eb_value* out) {
  return guard([&]() -> Status {
    edgebuild::Result<edgebuild::Value> made = edgebuild::RunnerAccess::preprocess(runner->runner, name, *images);
    if (!made.ok()) return made.status();
    *out = std::exchange(made.value().raw(), eb_value_none());
    return {};
  });
}

size_t eb_runner_input_count(const eb_runner* runner) { return runner->runner.signature().inputs.size(); }
size_t eb_runner_output_count(const eb_runner* runner) { return runner->runner.signature().outputs.size(); }

eb_code eb_runner_input(const eb_runner* runner, size_t index, eb_io_info* out) {
  return guard([&] { return describe(runner->runner.signature().inputs, index, out); });
}

eb_code eb_runner_output(const eb_runner* runner, size_t index, eb_io_info* out) {
  return guard([&] { return describe(runner->runner.signature().outputs, index, out); });
}

const char* eb_runner_input_type(const eb_runner* runner, size_t index) { return text_at(runner->input_types, index); }
const char* eb_runner_output_type(const eb_runner* runner, size_t index) {
  return text_at(runner->output_types, index);
}

const char* eb_runner_input_symbol(const eb_runner* runner, size_t index, size_t axis) {
  const auto& inputs = runner->runner.signature().inputs;
  if (index >= inputs.size()) return nullptr;
  const edgebuild::TypeSpec* type = &inputs[index].type;
  while (type->kind != EB_KIND_TENSOR && type->element) type = type->element.get();
  if (!type->shape || axis >= type->shape->size()) return nullptr;
  const edgebuild::Dim& dim = (*type->shape)[axis];
  return dim.kind == edgebuild::Dim::Kind::kSymbol ? dim.symbol.c_str() : nullptr;
}

eb_code eb_runner_symbol_range(const eb_runner* runner, const char* symbol, int64_t* min, int64_t* best, int64_t* max) {
  return guard([&]() -> Status {
    const auto& symbols = runner->runner.signature().symbols;
    const auto found = symbols.find(std::string_view(symbol));
    if (found == symbols.end()) return Status(Code::kNotFound, std::string("no range is given for ") + symbol);
    *min = found->second.min;
    *best = found->second.best;
    *max = found->second.max.value_or(std::numeric_limits<std::int64_t>::max());
    return {};
  });
}

int64_t eb_runner_symbol_step(const eb_runner* runner, const char* symbol) {
  const auto& symbols = runner->runner.signature().symbols;
  const auto found = symbols.find(std::string_view(symbol));
  return found == symbols.end() ? 1 : found->second.step;
}

const char* eb_runner_variant(const eb_runner* runner) { return runner->runner.variant_name().c_str(); }
const char* eb_runner_backend(const eb_runner* runner) { return runner->runner.backend_name().c_str(); }
const char* eb_runner_engine_version(const eb_runner* runner) { return runner->runner.engine_version().c_str(); }
const char* eb_runner_bundle_id(const eb_runner* runner) { return runner->runner.bundle_id().c_str(); }
const char* eb_runner_variant_order(const eb_runner* runner) { return runner->runner.variant_order().c_str(); }

size_t eb_runner_passed_over_count(const eb_runner* runner) { return runner->runner.passed_over().size(); }

eb_code eb_runner_passed_over(const eb_runner* runner, size_t index, const char** variant, const char** reason) {
  return guard([&]() -> Status {
    const auto passed_over = runner->runner.passed_over();
    if (index >= passed_over.size()) {
      return Status(Code::kNotFound, std::to_string(passed_over.size()) + " variants were passed over");
    }
    *variant = passed_over[index].variant.c_str();
    *reason = passed_over[index].reason.c_str();
    return {};
  });
}

eb_code eb_runner_profile(eb_runner* runner, const eb_profile_entry** entries, size_t* count) {
  static thread_local std::vector<edgebuild::ProfileEntry> read;
  static thread_local std::vector<eb_profile_entry> views;
  return guard([&]() -> Status {
    edgebuild::Result<std::vector<edgebuild::ProfileEntry>> profile = runner->runner.profile();
    if (!profile.ok()) return profile.status();
    read = std::move(profile).value();
    views.clear();
    for (const edgebuild::ProfileEntry& entry : read) {
      views.push_back(
          {entry.node.c_str(), entry.op_type.c_str(), entry.provider.c_str(), entry.duration_ns, entry.calls});
    }
    *entries = views.data();
    *count = views.size();
    return {};
  });
}

eb_value eb_value_none(void) {
  eb_value value{};
  value.struct_size = sizeof(value);
  value.kind = EB_KIND_NONE;
  value.device_type = EB_DEVICE_CPU;
  return value;
}

eb_value eb_value_view(uint32_t dtype, const int64_t* shape, size_t rank, const void* data, size_t bytes) {
  eb_value value = eb_value_none();
  value.kind = EB_KIND_TENSOR;
  value.dtype = dtype;
  value.rank = static_cast<std::uint32_t>(std::min<std::size_t>(rank, EB_MAX_RANK + 1));  // Above 16: refused later.
  if (rank <= EB_MAX_RANK) std::copy_n(shape, rank, value.shape);
  value.data = const_cast<void*>(data);  // Inputs are only read.
  value.byte_size = bytes;
  return value;
}

eb_value eb_value_bound(void* data, size_t capacity) {
  eb_value value = eb_value_none();
  value.kind = EB_KIND_TENSOR;
  value.data = data;
  value.byte_capacity = capacity;
  return value;
}

void eb_value_release(eb_value* value) {
  if (value->release != nullptr) value->release(value);
  *value = eb_value_none();
}
