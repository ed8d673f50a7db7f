#include "golden.hpp"

#include <span>

#include "table.hpp"

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Runner;
using edgebuild::Status;
using edgebuild::Value;
using edgebuild::bundle::Bundle;
using edgebuild::bundle::GoldenValue;
using edgebuild::bundle::Tolerance;
using edgebuild::bundle::Variant;

Result<Value> make(const Bundle& bundle, const GoldenValue& golden, Storage& storage) {
  if (golden.kind == EB_KIND_NONE) return Value();
  if (golden.kind == EB_KIND_SEQUENCE) {
    std::vector<Value> items;
    for (const GoldenValue& item : golden.items) {
      Result<Value> value = make(bundle, item, storage);
      if (!value.ok()) return value;
      items.push_back(std::move(value).value());
    }
    const edgebuild::DType dtype = golden.items.empty() ? EB_DTYPE_UNDEFINED : golden.items.front().dtype;
    return Value::sequence(std::move(items), dtype);
  }
  auto file = bundle.map(golden.file);
  if (!file.ok()) return file.status();
  storage.push_back(file.value());
  const std::span<const std::byte> bytes(static_cast<const std::byte*>(file.value()->data()), file.value()->size());
  Result<Value> value = value_from_raw(bytes, golden.dtype, golden.shape, golden.file);
  if (!value.ok()) return Status(Code::kCorrupt, value.status().message());
  return value;
}

// Whether `a` is further outside than `b`.
bool worse(const Comparison& a, const Comparison& b) {
  if (!b.structure_error.empty()) return false;
  if (!a.structure_error.empty()) return true;
  const auto ratio = [](const Comparison& c) {
    if (c.worst.error == 0.0) return 0.0;
    return c.worst.allowed > 0.0 ? c.worst.error / c.worst.allowed : c.worst.error * 1e300;
  };
  return ratio(a) > ratio(b);
}

}  // namespace

Result<LoadedInputs> load_golden(const Bundle& bundle, const std::vector<GoldenValue>& goldens) {
  LoadedInputs loaded;
  for (const GoldenValue& golden : goldens) {
    Result<Value> value = make(bundle, golden, loaded.storage);
    if (!value.ok()) return value.status();
    loaded.values.push_back(std::move(value).value());
  }
  return loaded;
}

Result<LoadedInputs> inputs_or_golden(const std::string& bundle, const InputFiles& files, const Runner& runner) {
  if (!files.inputs.empty() || !files.files.empty()) return load_inputs(runner.signature(), files);
  Result<Bundle> opened = Bundle::open(bundle);
  if (!opened.ok()) return opened.status();
  const auto& goldens = opened.value().manifest().goldens;
  if (!goldens.empty()) return load_golden(opened.value(), goldens.front().inputs);
  if (runner.signature().inputs.empty()) return LoadedInputs();
  return Status(Code::kUsage, "the bundle has no goldens to take inputs from; give some with --inputs FILE.npz");
}

Status compare_golden(Runner& runner, const Bundle& bundle, const Variant& variant, std::size_t index,
                      const edgebuild::RunOptions& options, std::vector<OutputReport>& reports) {
  const auto& golden = bundle.manifest().goldens[index];
  Result<LoadedInputs> inputs = load_golden(bundle, golden.inputs);
  if (!inputs.ok()) return inputs.status();
  Result<LoadedInputs> expected = load_golden(bundle, golden.outputs);
  if (!expected.ok()) return expected.status();
  std::vector<Value> outputs(golden.outputs.size());
  const Status status = runner.run(inputs.value().values, outputs, options);
  if (!status.ok()) return status.with_context("variant " + variant.name + ", golden " + std::to_string(index));
  const bool first = reports.empty();
  reports.resize(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Tolerance allowed = tolerance_of(variant, runner.signature().outputs[i].name);
    Comparison comparison = compare(outputs[i].raw(), expected.value().values[i].raw(), allowed.atol, allowed.rtol);
    if (first || worse(comparison, reports[i].comparison)) reports[i] = {std::move(comparison), index};
  }
  return {};
}

Tolerance tolerance_of(const Variant& variant, const std::string& output) {
  const auto found = variant.tolerances.find(output);
  return found != variant.tolerances.end() ? found->second : Tolerance();
}

bool all_agree(const std::vector<OutputReport>& reports) {
  for (const OutputReport& report : reports) {
    if (!report.comparison.agrees()) return false;
  }
  return true;
}

std::string describe_failure(const Bundle& bundle, const std::string& variant,
                             const std::vector<OutputReport>& reports) {
  for (std::size_t i = 0; i < reports.size(); ++i) {
    const Comparison& comparison = reports[i].comparison;
    if (comparison.agrees()) continue;
    std::string text = "variant " + variant + ", output '" + bundle.manifest().signature.outputs[i].name +
                       "', golden " + std::to_string(reports[i].golden) + ": ";
    if (!comparison.structure_error.empty()) return text + comparison.structure_error;
    text += format(
        "%llu of %llu elements outside of the tolerance; worst at %s: got %s, expected %s (error %.3g, allowed %.3g)",
        static_cast<unsigned long long>(comparison.outside), static_cast<unsigned long long>(comparison.elements),
        index_text(comparison.worst.index).c_str(), comparison.worst.got.c_str(), comparison.worst.golden.c_str(),
        comparison.worst.error, comparison.worst.allowed);
    return text;
  }
  return {};
}

std::string index_text(const std::vector<std::int64_t>& index) {
  std::string text = "[";
  for (std::size_t i = 0; i < index.size(); ++i) text.append(i > 0 ? "," : "").append(std::to_string(index[i]));
  return text + "]";
}

}  // namespace edgerun
