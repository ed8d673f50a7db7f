// Loads a bundle and runs it once on zeros: embed_cpp BUNDLE
#include <cstdio>
#include <edgebuild/runner.hpp>
#include <vector>

namespace {

/// A zeroed value for an input; dynamic axes get the size that the model likes best.
edgebuild::Result<edgebuild::Value> make_input(const edgebuild::Signature& signature,
                                               const edgebuild::ValueSpec& input) {
  if (input.type.kind != EB_KIND_TENSOR || !input.type.shape) return edgebuild::Value();
  std::vector<std::int64_t> shape;
  for (const edgebuild::Dim& dim : *input.type.shape) {
    const auto range = signature.symbols.find(dim.symbol);
    const std::int64_t best = range != signature.symbols.end() ? range->second.best : 1;
    shape.push_back(dim.kind == edgebuild::Dim::Kind::kFixed ? dim.size : best);
  }
  return edgebuild::Value::allocate(input.type.dtype, shape);
}

int fail(const edgebuild::Status& status) {
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return edgebuild::exit_code(status.code());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
    return 2;
  }
  edgebuild::Result<edgebuild::Runner> loaded = edgebuild::Runner::load(argv[1]);
  if (!loaded.ok()) return fail(loaded.status());
  edgebuild::Runner& runner = loaded.value();
  std::printf("edgebuild %s, variant %s, %s %s\n", edgebuild::version(), runner.variant_name().c_str(),
              runner.backend_name().c_str(), runner.engine_version().c_str());

  const edgebuild::Signature& signature = runner.signature();
  std::vector<edgebuild::Value> inputs;
  for (const edgebuild::ValueSpec& spec : signature.inputs) {
    edgebuild::Result<edgebuild::Value> input = make_input(signature, spec);
    if (!input.ok()) return fail(input.status());
    inputs.push_back(std::move(input).value());
  }
  std::vector<edgebuild::Value> outputs(signature.outputs.size());  // Empty: the backend allocates.
  const edgebuild::Status status = runner.run(inputs, outputs);
  if (!status.ok()) return fail(status);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::printf("%s %s[", signature.outputs[i].name.c_str(), edgebuild::dtype_name(outputs[i].dtype()));
    const char* separator = "";
    for (const std::int64_t size : outputs[i].shape()) {
      std::printf("%s%lld", separator, static_cast<long long>(size));
      separator = ",";
    }
    std::printf("]\n");
  }
  return 0;
}
