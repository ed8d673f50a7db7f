#include <algorithm>
#include <cstring>

#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {
namespace {

/// Fills the tensor part of a port from the engine's description.
OrtStatus* describe_tensor(const Backend& backend, const OrtTypeInfo* type, Port* port) {
  const OrtApi& api = backend.api();
  const OrtTensorTypeAndShapeInfo* info = nullptr;
  EDGEBUILD_ORT_TRY(api.CastTypeInfoToTensorInfo(type, &info));
  if (info == nullptr) return nullptr;
  EDGEBUILD_ORT_TRY(api.GetTensorElementType(info, &port->element));
  port->dtype = from_engine(port->element);
  if (port->kind != EB_KIND_TENSOR) return nullptr;
  std::size_t rank = 0;
  EDGEBUILD_ORT_TRY(api.GetDimensionsCount(info, &rank));
  if (rank > EB_MAX_RANK) return nullptr;
  // The engine says rank 0 for an unknown shape too; so a scalar's shape counts as unknown.
  port->rank = rank == 0 ? -1 : static_cast<std::int32_t>(rank);
  std::array<const char*, EB_MAX_RANK> symbols{};
  EDGEBUILD_ORT_TRY(api.GetSymbolicDimensions(info, symbols.data(), rank));
  for (std::size_t i = 0; i < rank; ++i) port->symbols[i] = symbols[i] != nullptr ? symbols[i] : "";
  return api.GetDimensions(info, port->shape.data(), rank);
}

/// Whether the model declares that the output's shape follows from the inputs' shapes alone.
bool shape_follows(const Port& output, const std::vector<Port>& inputs) {
  if (output.kind != EB_KIND_TENSOR || output.optional || output.rank < 0) return false;
  const auto names_axis_of_input = [&](const std::string& symbol) {
    return !symbol.empty() && std::any_of(inputs.begin(), inputs.end(), [&](const Port& input) {
      return std::find(input.symbols.begin(), input.symbols.end(), symbol) != input.symbols.end();
    });
  };
  for (std::size_t i = 0; i < static_cast<std::size_t>(output.rank); ++i) {
    if (output.shape[i] < 0 && !names_axis_of_input(output.symbols[i])) return false;
  }
  return true;
}

OrtStatus* describe_type(const Backend& backend, const OrtTypeInfo* type, Port* port, ONNXType* unsupported) {
  const OrtApi& api = backend.api();
  ONNXType kind = ONNX_TYPE_UNKNOWN;
  EDGEBUILD_ORT_TRY(api.GetOnnxTypeFromTypeInfo(type, &kind));
  if (kind == ONNX_TYPE_TENSOR) return describe_tensor(backend, type, port);
  if (kind == ONNX_TYPE_OPTIONAL) {
    port->optional = true;
    port->may_be_absent = true;
    const OrtOptionalTypeInfo* optional = nullptr;
    EDGEBUILD_ORT_TRY(api.CastTypeInfoToOptionalTypeInfo(type, &optional));
    OrtTypeInfo* contained = nullptr;
    EDGEBUILD_ORT_TRY(api.GetOptionalContainedTypeInfo(optional, &contained));
    const auto owned = backend.own(contained, api.ReleaseTypeInfo);
    return describe_type(backend, contained, port, unsupported);
  }
  if (kind == ONNX_TYPE_SEQUENCE && port->kind == EB_KIND_TENSOR) {
    port->kind = EB_KIND_SEQUENCE;
    const OrtSequenceTypeInfo* sequence = nullptr;
    EDGEBUILD_ORT_TRY(api.CastTypeInfoToSequenceTypeInfo(type, &sequence));
    OrtTypeInfo* element = nullptr;
    EDGEBUILD_ORT_TRY(api.GetSequenceElementType(sequence, &element));
    const auto owned = backend.own(element, api.ReleaseTypeInfo);
    EDGEBUILD_ORT_TRY(api.GetOnnxTypeFromTypeInfo(element, &kind));
    if (kind == ONNX_TYPE_TENSOR) return describe_tensor(backend, element, port);
  }
  *unsupported = kind;
  return nullptr;
}

const char* type_name(ONNXType type) noexcept {
  switch (type) {
    case ONNX_TYPE_SEQUENCE:
      return "a sequence of sequences";
    case ONNX_TYPE_MAP:
      return "a map";
    case ONNX_TYPE_SPARSETENSOR:
      return "a sparse tensor";
    case ONNX_TYPE_OPAQUE:
      return "an opaque value";
    default:
      return "a value of an unknown type";
  }
}

struct PortReader {
  const char* noun;
  OrtStatus*(ORT_API_CALL* count)(const OrtSession*, std::size_t*)NO_EXCEPTION;
  OrtStatus*(ORT_API_CALL* name)(const OrtSession*, std::size_t, OrtAllocator*, char**)NO_EXCEPTION;
  OrtStatus*(ORT_API_CALL* type)(const OrtSession*, std::size_t, OrtTypeInfo**)NO_EXCEPTION;
};

/// Appends what the session says of its inputs (or outputs, or initialisers that an input may override).
eb_status* read_ports(const Backend& backend, const OrtSession* session, const PortReader& reader,
                      std::vector<Port>* ports) {
  const OrtApi& api = backend.api();
  std::size_t count = 0;
  EDGEBUILD_PLUGIN_TRY(backend.take(reader.count(session, &count), "the model's signature"));
  for (std::size_t i = 0; i < count; ++i) {
    Port port;
    char* name = nullptr;
    EDGEBUILD_PLUGIN_TRY(backend.take(reader.name(session, i, backend.allocator(), &name), "the model's signature"));
    port.name = name;
    backend.discard(api.AllocatorFree(backend.allocator(), name));
    OrtTypeInfo* raw = nullptr;
    EDGEBUILD_PLUGIN_TRY(backend.take(reader.type(session, i, &raw), "the model's signature"));
    const auto type = backend.own(raw, api.ReleaseTypeInfo);
    ONNXType unsupported = ONNX_TYPE_TENSOR;
    EDGEBUILD_PLUGIN_TRY(backend.take(describe_type(backend, raw, &port, &unsupported), "the model's signature"));
    if (unsupported != ONNX_TYPE_TENSOR) {
      return plugin::make_error(backend.host(), EB_UNSUPPORTED,
                                std::string(reader.noun) + " '" + port.name + "' is " + type_name(unsupported) +
                                    "; edgebuild handles tensors, sequences of tensors and optionals of those");
    }
    ports->push_back(std::move(port));
  }
  return nullptr;
}

/// Puts ports in the order of `names`. A NULL name gives an unused port.
eb_status* order_ports(const Backend& backend, const char* noun, const char* const* names, std::size_t count,
                       const std::vector<Port>& available, std::vector<Port>* ordered) {
  for (std::size_t i = 0; i < count; ++i) {
    if (names[i] == nullptr) {
      Port unused;
      unused.used = false;
      ordered->push_back(std::move(unused));
      continue;
    }
    const auto found =
        std::find_if(available.begin(), available.end(), [&](const Port& port) { return port.name == names[i]; });
    if (found == available.end()) {
      std::vector<std::string> known;
      for (const Port& port : available) known.push_back(port.name);
      return plugin::make_error(backend.host(), EB_CORRUPT,
                                std::string("the manifest names the ") + noun + " '" + names[i] +
                                    "', but the model has only: " + plugin::join(known));
    }
    ordered->push_back(*found);
  }
  return nullptr;
}

}  // namespace

eb_status* Model::load(Backend& backend, const eb_model_config& config, Model** out) {
  if (config.file_count == 0) return plugin::make_error(backend.host(), EB_USAGE, "no model file was given");
  std::unique_ptr<Model> model(new Model(backend));
  for (std::size_t i = 0; i < config.option_count; ++i) {
    model->options_[config.options[i].name] = config.options[i].value;
  }
  EDGEBUILD_PLUGIN_TRY(check_options(backend, model->options_));
  // The paths are kept for a later session that profiles; the bytes outlive the model.
  model->file_paths_.reserve(config.file_count);
  for (std::size_t i = 0; i < config.file_count; ++i) {
    eb_file file = config.files[i];
    model->file_paths_.emplace_back(file.path);
    file.path = model->file_paths_.back().c_str();
    model->files_.push_back(file);
  }
  EDGEBUILD_PLUGIN_TRY(create_session(backend, model->files_, model->options_, nullptr, &model->session_));
  EDGEBUILD_PLUGIN_TRY(model->describe(config));
  *out = model.release();
  return nullptr;
}

Model::~Model() = default;

eb_status* Model::describe(const eb_model_config& config) {
  const OrtApi& api = backend_.api();
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  EDGEBUILD_PLUGIN_TRY(
      read_ports(backend_, session_.get(),
                 {"input", api.SessionGetInputCount, api.SessionGetInputName, api.SessionGetInputTypeInfo}, &inputs));
  for (const Port& port : inputs) {
    const auto bound = [&](const char* name) { return name != nullptr && port.name == name; };
    if (!port.optional && std::none_of(config.input_names, config.input_names + config.input_count, bound)) {
      return plugin::make_error(backend_.host(), EB_CORRUPT,
                                "the model needs the input '" + port.name + "', which the manifest does not name");
    }
  }
  const std::size_t required = inputs.size();
  EDGEBUILD_PLUGIN_TRY(
      read_ports(backend_, session_.get(),
                 {"initializer", api.SessionGetOverridableInitializerCount, api.SessionGetOverridableInitializerName,
                  api.SessionGetOverridableInitializerTypeInfo},
                 &inputs));
  for (std::size_t i = required; i < inputs.size(); ++i) inputs[i].may_be_absent = true;
  EDGEBUILD_PLUGIN_TRY(read_ports(
      backend_, session_.get(),
      {"output", api.SessionGetOutputCount, api.SessionGetOutputName, api.SessionGetOutputTypeInfo}, &outputs));
  EDGEBUILD_PLUGIN_TRY(order_ports(backend_, "input", config.input_names, config.input_count, inputs, &inputs_));
  EDGEBUILD_PLUGIN_TRY(order_ports(backend_, "output", config.output_names, config.output_count, outputs, &outputs_));
  volatile_outputs_ = std::make_unique<std::atomic<bool>[]>(outputs_.size());
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (!shape_follows(outputs_[i], inputs_)) set_volatile(i);
  }
  return nullptr;
}

eb_status* Model::profiling_session(const std::string& prefix, Handle<OrtSession>* out) const {
  return create_session(backend_, files_, options_, prefix.c_str(), out);
}

}  // namespace edgebuild::onnxruntime
