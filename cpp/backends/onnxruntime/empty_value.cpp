// Empty sequences and absent optionals. The engine's C API can't make them from nothing, but operators can: a model of
// one node is written by hand here (ONNX's protobuf, field numbers from onnx.proto), and its output is the value.

#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {
namespace {

std::string varint(std::uint64_t number) {
  std::string bytes;
  for (; number >= 128; number >>= 7) bytes += static_cast<char>((number & 127) | 128);
  return bytes + static_cast<char>(number);
}

std::string number_field(unsigned field, std::uint64_t content) { return varint(field << 3) + varint(content); }

std::string bytes_field(unsigned field, const std::string& content) {
  return varint((field << 3) | 2) + varint(content.size()) + content;
}

/// TypeProto of what the port holds when it holds something. The element numbers of engine and ONNX agree up to 22.
std::string type_of(const Port& port) {
  const std::string tensor = bytes_field(1, number_field(1, static_cast<std::uint64_t>(port.dtype)));
  return port.kind == EB_KIND_SEQUENCE ? bytes_field(4, bytes_field(1, tensor)) : tensor;
}

/// A ModelProto with one node and one output "v".
std::string one_node_model(const Port& port, bool none) {
  const std::string attribute =
      none ? bytes_field(1, "type") + bytes_field(14, type_of(port)) + number_field(20, 13)
           : bytes_field(1, "dtype") + number_field(3, static_cast<std::uint64_t>(port.dtype)) + number_field(20, 2);
  const std::string node =
      bytes_field(2, "v") + bytes_field(4, none ? "Optional" : "SequenceEmpty") + bytes_field(5, attribute);
  const std::string type = none ? bytes_field(9, bytes_field(1, type_of(port))) : type_of(port);
  const std::string graph =
      bytes_field(1, node) + bytes_field(2, "g") + bytes_field(12, bytes_field(1, "v") + bytes_field(2, type));
  return number_field(1, 8) + bytes_field(7, graph) + bytes_field(8, bytes_field(1, "") + number_field(2, 18));
}

}  // namespace

eb_status* Model::empty_value(const Port& port, bool none, OrtValue** out) const {
  const OrtApi& api = backend_.api();
  const std::string where = "input '" + port.name + "', " + (none ? "absent" : "an empty sequence");
  OrtSession* session = nullptr;
  {
    const std::lock_guard lock(empty_mutex_);
    Handle<OrtSession>& known = empty_sessions_[{&port, none}];
    if (!known) {
      const std::string model = one_node_model(port, none);
      const std::vector<eb_file> files{{"(made for it)", model.data(), model.size()}};
      EDGEBUILD_PLUGIN_TRY(create_session(backend_, files, {{"intra_op_threads", "1"}}, nullptr, &known));
    }
    session = known.get();
  }
  const char* const name = "v";
  return backend_.take(api.Run(session, nullptr, nullptr, nullptr, 0, &name, 1, out), where);
}

}  // namespace edgebuild::onnxruntime
