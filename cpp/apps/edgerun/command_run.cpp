#include <algorithm>
#include <optional>

#include "command.hpp"
#include "each.hpp"
#include "runner/access.hpp"
#include "table.hpp"

namespace edgerun {

using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::Value;

namespace {

using Clock = std::chrono::steady_clock;

// With --each, every image is a run of its own: (N, C, H, W) becomes (N, 1, C, H, W).
Images images_of(const Runner& runner, bool each) {
  using edgebuild::RunnerAccess;
  Images images;
  images.is_image = [&runner](const std::string& name) { return RunnerAccess::has_preprocessing(runner, name); };
  images.make = [&runner, each](const std::string& name, const Value& value) {
    Result<Value> made = runner.preprocess(name, value);
    if (made.ok() && each) {
      eb_value& raw = made.value().raw();
      std::copy_backward(raw.shape + 1, raw.shape + raw.rank, raw.shape + raw.rank + 1);
      raw.shape[1] = 1;
      ++raw.rank;
    }
    return made;
  };
  return images;
}

bool has_images(const Runner& runner) {
  const auto& inputs = runner.signature().inputs;
  return std::any_of(inputs.begin(), inputs.end(), [&](const edgebuild::ValueSpec& spec) {
    return edgebuild::RunnerAccess::has_preprocessing(runner, spec.name);
  });
}

}  // namespace

Status run_command(const RunCommandOptions& options) {
  const Clock::time_point start = Clock::now();
  Result<Runner> loaded = load_runner(options);
  if (!loaded.ok()) return loaded.status();
  // Never destroyed: main ends the process at once, and freeing the engine first would only take time.
  static Runner* const kept = new Runner(std::move(loaded).value());
  Runner& runner = *kept;
  const Clock::time_point ready = Clock::now();

  if (options.preprocess && !has_images(runner)) {
    return Status(edgebuild::Code::kUsage, "--preprocess: the bundle does not say how to make inputs of images");
  }
  Result<LoadedInputs> inputs =
      load_inputs(runner.signature(), options.inputs, options.preprocess ? images_of(runner, options.each) : Images{});
  if (!inputs.ok()) return inputs.status();
  std::vector<Value> outputs(runner.signature().outputs.size());
  std::optional<HardDeadline> deadline(options);
  const Clock::time_point begin = Clock::now();
  StackedOutputs stacked;  // keeps the memory of stacked outputs
  if (options.each) {
    Result<StackedOutputs> all = run_each(runner, inputs.value().values, [&] {
      deadline.emplace(options);
      return run_options(options);
    });
    if (!all.ok()) return all.status();
    stacked = std::move(all).value();
    outputs = std::move(stacked.values);
  } else {
    EDGEBUILD_RETURN_IF_ERROR(runner.run(inputs.value().values, outputs, run_options(options)));
  }
  const Clock::time_point end = Clock::now();
  deadline.reset();
  EDGEBUILD_RETURN_IF_ERROR(save_outputs(runner.signature(), outputs, options.outputs));

  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  if (!options.json) return {};
  JsonWriter json;
  json.begin_object().member("schema", "edgebuild.run/1").member("bundle_id", runner.bundle_id());
  write_choice(json, runner);
  json.member("load_s", seconds(ready - start)).member("run_s", seconds(end - begin));
  json.member("runs", options.each ? stacked.count : std::int64_t{1});
  json.member("hashed_bytes", edgebuild::RunnerAccess::hashed_bytes(runner));
  json.member("hashing_s", static_cast<double>(edgebuild::RunnerAccess::hashing_ns(runner)) * 1e-9);
  json.key("outputs").begin_array();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const eb_value& value = outputs[i].raw();
    json.begin_object().member("name", runner.signature().outputs[i].name);
    if (value.kind == EB_KIND_TENSOR) {
      json.member("kind", "tensor")
          .member("dtype", edgebuild::dtype_name(outputs[i].dtype()))
          .key("shape")
          .begin_array();
      for (const std::int64_t size : outputs[i].shape()) json.value(size);
      json.end_array();
    } else if (value.kind == EB_KIND_SEQUENCE) {
      json.member("kind", "sequence").member("length", value.item_count);
    } else {
      json.member("kind", "none");
    }
    json.end_object();
  }
  json.end_array().member("exit_code", 0).end_object();
  return print(json.text() + "\n");
}

}  // namespace edgerun
