// The model file: JSON, as docs/reference-backend.md describes it.

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "reference/reference.hpp"

namespace edgebuild::reference {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostNodes = 10000;
constexpr std::size_t kMostBytes = std::size_t{64} << 20;
constexpr int kMostDepth = 8;

struct DTypeRule {
  const char* name;
  std::uint32_t dtype;
  unsigned bits;
};

constexpr DTypeRule kDTypes[] = {
    {"float32", EB_FLOAT32, 32},
    {"uint8", EB_UINT8, 8},
    {"int8", EB_INT8, 8},
    {"uint16", EB_UINT16, 16},
    {"int16", EB_INT16, 16},
    {"int32", EB_INT32, 32},
    {"int64", EB_INT64, 64},
    {"string", EB_STRING, 8 * sizeof(eb_string)},
    {"bool", EB_BOOL, 8},
    {"float16", EB_FLOAT16, 16},
    {"float64", EB_FLOAT64, 64},
    {"uint32", EB_UINT32, 32},
    {"uint64", EB_UINT64, 64},
    {"complex64", EB_COMPLEX64, 64},
    {"complex128", EB_COMPLEX128, 128},
    {"bfloat16", EB_BFLOAT16, 16},
    {"float8_e4m3fn", EB_FLOAT8_E4M3FN, 8},
    {"float8_e4m3fnuz", EB_FLOAT8_E4M3FNUZ, 8},
    {"float8_e5m2", EB_FLOAT8_E5M2, 8},
    {"float8_e5m2fnuz", EB_FLOAT8_E5M2FNUZ, 8},
    {"uint4", EB_UINT4, 4},
    {"int4", EB_INT4, 4},
    {"float4_e2m1fn", EB_FLOAT4_E2M1, 4},
    {"float8_e8m0fnu", EB_FLOAT8_E8M0, 8},
    {"uint2", EB_UINT2, 2},
    {"int2", EB_INT2, 2},
};

Failure corrupt(std::string message) { return {EB_CORRUPT, std::move(message)}; }

class Parser {
 public:
  Parser(const eb_model_config& config, Graph& graph) : config_(config), graph_(graph) {}

  Failure parse() {
    const eb_file& file = config_.files[0];
    if (file.size > kMostBytes) return corrupt("a model file has at most 64 MiB");
    const auto* const text = static_cast<const char*>(file.data);
    int depth_exceeded = 0;
    const auto shallow = [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMostDepth) depth_exceeded = 1;
      return depth <= kMostDepth;
    };
    const Json model = Json::parse(text, text + file.size, shallow, false);
    if (depth_exceeded != 0 || !model.is_object()) return corrupt("the model file is no JSON object, or too deep");
    if (model.value("format", Json()) != "edgebuild-reference" || model.value("version", Json()) != 1) {
      return corrupt("format must be edgebuild-reference, version 1");
    }
    if (Failure failure = parse_inputs(model); !failure.ok()) return failure;
    if (Failure failure = parse_constants(model); !failure.ok()) return failure;
    if (Failure failure = parse_nodes(model); !failure.ok()) return failure;
    if (Failure failure = parse_outputs(model); !failure.ok()) return failure;
    graph_.slot_count = slots_.size();
    return {};
  }

 private:
  static const Json& list(const Json& object, const char* key) {
    static const Json empty = Json::array();
    const auto found = object.find(key);
    return found != object.end() && found->is_array() && found->size() <= kMostNodes ? *found : empty;
  }

  static bool text(const Json& object, const char* key, std::string* out) {
    if (!object.is_object()) return false;
    const auto found = object.find(key);
    if (found == object.end() || !found->is_string()) return false;
    *out = found->get<std::string>();
    return true;
  }

  static bool integers(const Json& array, std::vector<std::int64_t>* out) {
    if (!array.is_array() || array.size() > EB_MAX_RANK) return false;
    for (const Json& item : array) {
      if (!item.is_number_integer() || item.get<std::int64_t>() < -1) return false;
      out->push_back(item.get<std::int64_t>());
    }
    return true;
  }

  bool define(const std::string& name, std::size_t* slot) {
    const auto [position, added] = slots_.try_emplace(name, slots_.size());
    *slot = position->second;
    return added && !name.empty();
  }

  static Failure parse_port(const Json& json, Port* port) {
    std::string dtype;
    std::string kind = "tensor";
    if (!text(json, "name", &port->name) || !text(json, "dtype", &dtype))
      return corrupt("an input has no name or dtype");
    text(json, "kind", &kind);
    if (kind != "tensor" && kind != "sequence" && kind != "optional") return corrupt("input " + port->name + ": kind");
    port->kind = kind == "tensor" ? EB_KIND_TENSOR : kind == "sequence" ? EB_KIND_SEQUENCE : EB_KIND_OPTIONAL;
    port->dtype = static_cast<eb_dtype>(dtype_from_name(dtype));
    if (port->dtype == EB_DTYPE_UNDEFINED) return corrupt("input " + port->name + ": there is no dtype " + dtype);
    const auto shape = json.find("shape");
    if (shape == json.end() || shape->is_null()) return {};
    port->shape.emplace();
    return integers(*shape, &*port->shape) ? Failure{} : corrupt("input " + port->name + ": shape");
  }

  Failure parse_inputs(const Json& model) {
    std::vector<Port> ports;
    for (const Json& json : list(model, "inputs")) {
      Port port;
      if (Failure failure = parse_port(json, &port); !failure.ok()) return failure;
      if (!define(port.name, &port.slot)) return corrupt("the name '" + port.name + "' is defined twice");
      ports.push_back(std::move(port));
    }
    for (std::size_t i = 0; i < config_.input_count; ++i) {
      const char* const name = config_.input_names[i];
      Port port;
      if (name != nullptr) {
        std::size_t at = 0;
        while (at < ports.size() && ports[at].name != name) ++at;
        if (at == ports.size()) return corrupt(std::string("the model has no input '") + name + "'");
        port = ports[at];
      }
      graph_.inputs.push_back(std::move(port));
    }
    return {};
  }

  Failure parse_constants(const Json& model) {
    for (const Json& json : list(model, "constants")) {
      std::string name;
      std::string dtype;
      Constant constant;
      if (!text(json, "name", &name) || !text(json, "dtype", &dtype)) return corrupt("a constant has no name or dtype");
      if (!define(name, &constant.slot)) return corrupt("the name '" + name + "' is defined twice");
      std::vector<std::int64_t> shape;
      eb_value& value = constant.value;
      value.struct_size = sizeof(eb_value);
      value.kind = EB_KIND_TENSOR;
      value.device_type = EB_DEVICE_CPU;
      value.dtype = dtype_from_name(dtype);
      if (value.dtype != EB_FLOAT32 && value.dtype != EB_INT64) {
        return {EB_UNSUPPORTED, "constant '" + name + "': only float32 and int64"};
      }
      if (!json.contains("shape") || !integers(json["shape"], &shape)) return corrupt("constant '" + name + "': shape");
      const auto bytes = byte_size(value.dtype, shape.data(), shape.size());
      if (!bytes) return corrupt("constant '" + name + "': shape");
      value.rank = static_cast<std::uint32_t>(shape.size());
      std::copy(shape.begin(), shape.end(), value.shape);
      value.byte_size = *bytes;
      if (Failure failure = fill(json, name, &constant); !failure.ok()) return failure;
      graph_.constants.push_back(std::move(constant));
    }
    return {};
  }

  /// Values from "data" in the model, or from "file", one of the variant's data files, at "offset".
  Failure fill(const Json& json, const std::string& name, Constant* constant) {
    eb_value& value = constant->value;
    std::string file_name;
    if (text(json, "file", &file_name)) {
      const Json offset = json.value("offset", Json(0u));
      for (std::size_t i = 1; i < config_.file_count; ++i) {
        const eb_file& file = config_.files[i];
        const char* const slash = std::strrchr(file.path, '/');
        if (file_name != (slash != nullptr ? slash + 1 : file.path)) continue;
        const std::uint64_t start = offset.is_number_unsigned() ? offset.get<std::uint64_t>() : file.size + 1;
        if (start > file.size || value.byte_size > file.size - start || start % 8 != 0) {
          return corrupt("constant '" + name + "' lies outside of " + file_name + " or is not aligned to 8");
        }
        value.data = const_cast<char*>(static_cast<const char*>(file.data) + start);  // Constants are only read.
        return {};
      }
      return corrupt("constant '" + name + "': there is no data file " + file_name);
    }
    const auto found = json.find("data");
    const std::uint64_t size = value.dtype == EB_FLOAT32 ? 4 : 8;
    if (found == json.end() || !found->is_array() || found->size() != value.byte_size / size) {
      return corrupt("constant '" + name + "': data must have as many numbers as shape says");
    }
    constant->storage.resize(static_cast<std::size_t>((value.byte_size + 7) / 8));
    auto* target = reinterpret_cast<char*>(constant->storage.data());
    for (const Json& number : *found) {
      if (!number.is_number() || (value.dtype == EB_INT64 && !number.is_number_integer())) {
        return corrupt("constant '" + name + "': data");
      }
      const float real = number.get<float>();
      const std::int64_t integer = value.dtype == EB_INT64 ? number.get<std::int64_t>() : 0;
      std::memcpy(target, value.dtype == EB_FLOAT32 ? static_cast<const void*>(&real) : &integer,
                  static_cast<std::size_t>(size));
      target += size;
    }
    value.data = constant->storage.data();
    return {};
  }

  Failure parse_nodes(const Json& model) {
    for (const Json& json : list(model, "nodes")) {
      Node node;
      std::string output;
      if (!text(json, "op", &node.op_type) || !text(json, "output", &output))
        return corrupt("a node has no op or output");
      node.name = output;
      const Operator* const op = find_operator(node.op_type);
      if (op == nullptr) return {EB_UNSUPPORTED, "node '" + output + "': there is no operator '" + node.op_type + "'"};
      node.compute = op->compute;
      for (const Json& input : list(json, "inputs")) {
        const auto known = input.is_string() ? slots_.find(input.get<std::string>()) : slots_.end();
        if (known == slots_.end()) return corrupt("node '" + output + "' uses a value that is not defined before it");
        node.inputs.push_back(known->second);
      }
      if (node.inputs.size() < op->least_inputs || node.inputs.size() > op->most_inputs) {
        return corrupt("node '" + output + "': wrong number of inputs for " + node.op_type);
      }
      if (json.contains("shape") && !integers(json["shape"], &node.shape))
        return corrupt("node '" + output + "': shape");
      const Json axis = json.value("axis", Json(0));
      const Json time = json.value("milliseconds", Json(0));
      if (!axis.is_number_integer() || !time.is_number_integer() || time.get<std::int64_t>() < 0) {
        return corrupt("node '" + output + "': axis or milliseconds");
      }
      node.axis = axis.get<std::int64_t>();
      node.milliseconds = time.get<std::int64_t>();
      if (!define(output, &node.output)) return corrupt("the name '" + output + "' is defined twice");
      graph_.nodes.push_back(std::move(node));
    }
    return {};
  }

  Failure parse_outputs(const Json& model) {
    for (std::size_t i = 0; i < config_.output_count; ++i) {
      Port port;
      port.name = config_.output_names[i];
      bool listed = false;
      for (const Json& json : list(model, "outputs")) listed = listed || json == port.name;
      const auto known = slots_.find(port.name);
      if (!listed || known == slots_.end()) return corrupt("the model has no output '" + port.name + "'");
      port.slot = known->second;
      graph_.outputs.push_back(std::move(port));
    }
    return {};
  }

  const eb_model_config& config_;
  Graph& graph_;
  std::map<std::string, std::size_t> slots_;
};

}  // namespace

unsigned dtype_bits(std::uint32_t dtype) noexcept {
  for (const DTypeRule& rule : kDTypes) {
    if (rule.dtype == dtype) return rule.bits;
  }
  return 0;
}

std::uint32_t dtype_from_name(const std::string& name) noexcept {
  for (const DTypeRule& rule : kDTypes) {
    if (name == rule.name) return rule.dtype;
  }
  return EB_DTYPE_UNDEFINED;
}

std::optional<std::uint64_t> byte_size(std::uint32_t dtype, const std::int64_t* shape, std::size_t rank) noexcept {
  const unsigned bits = dtype_bits(dtype);
  if (bits == 0 || rank > EB_MAX_RANK) return std::nullopt;
  std::uint64_t count = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    if (shape[i] < 0) return std::nullopt;
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(shape[i]), &count)) return std::nullopt;
  }
  std::uint64_t total = 0;
  if (__builtin_mul_overflow(count, std::uint64_t{bits}, &total) || total > (std::uint64_t{1} << 62))
    return std::nullopt;
  return (total + 7) / 8;
}

Failure parse_graph(const eb_model_config& config, Graph* out) { return Parser(config, *out).parse(); }

}  // namespace edgebuild::reference
