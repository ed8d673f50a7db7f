#include "signature_json.hpp"

namespace edgebuild {
namespace {

void write_type(JsonWriter& json, const TypeSpec& type) {
  json.begin_object();
  if (type.kind != EB_KIND_TENSOR) {
    json.member("kind", type.kind == EB_KIND_SEQUENCE ? "sequence" : "optional").key("element");
    write_type(json, *type.element);
    json.end_object();
    return;
  }
  json.member("kind", "tensor").member("dtype", dtype_name(type.dtype)).key("shape");
  if (!type.shape) {
    json.null().end_object();
    return;
  }
  json.begin_array();
  for (const Dim& dim : *type.shape) {
    switch (dim.kind) {
      case Dim::Kind::kFixed:
        json.value(dim.size);
        break;
      case Dim::Kind::kSymbol:
        json.value(dim.symbol);
        break;
      case Dim::Kind::kUnknown:
        json.null();
        break;
    }
  }
  json.end_array().end_object();
}

void write_specs(JsonWriter& json, const std::vector<ValueSpec>& specs) {
  json.begin_array();
  for (const ValueSpec& spec : specs) {
    json.begin_object().member("name", spec.name).key("type");
    write_type(json, spec.type);
    json.key("layout");
    if (spec.layout.empty()) {
      json.null();
    } else {
      json.value(spec.layout);
    }
    json.end_object();
  }
  json.end_array();
}

}  // namespace

void write_signature(JsonWriter& json, const Signature& signature) {
  json.begin_object().key("inputs");
  write_specs(json, signature.inputs);
  json.key("outputs");
  write_specs(json, signature.outputs);
  json.key("symbols").begin_object();
  for (const auto& [name, range] : signature.symbols) {
    json.key(name).begin_object().member("min", range.min).member("best", range.best).key("max");
    if (range.max) {
      json.value(*range.max);
    } else {
      json.null();
    }
    if (range.step > 1) json.member("step", range.step);
    json.end_object();
  }
  json.end_object().key("output_structure");
  json.raw(signature.output_structure_json.empty() ? "{}" : signature.output_structure_json).end_object();
}

}  // namespace edgebuild
