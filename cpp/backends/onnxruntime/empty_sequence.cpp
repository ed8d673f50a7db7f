// Empty sequences. The engine's C API can't make one from nothing, but an operator can: a model of one node is written
// by hand here (ONNX's protobuf, field numbers from onnx.proto), and its output is the value.

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

/// A ModelProto with one node, SequenceEmpty, and its output "v". `element` is an ONNX element type.
std::string empty_sequence_model(std::uint64_t element) {
  const std::string attribute = bytes_field(1, "dtype") + number_field(3, element) + number_field(20, 2);
  const std::string node = bytes_field(2, "v") + bytes_field(4, "SequenceEmpty") + bytes_field(5, attribute);
  const std::string type = bytes_field(4, bytes_field(1, bytes_field(1, number_field(1, element))));
  const std::string graph =
      bytes_field(1, node) + bytes_field(2, "g") + bytes_field(12, bytes_field(1, "v") + bytes_field(2, type));
  return number_field(1, 8) + bytes_field(7, graph) + bytes_field(8, bytes_field(1, "") + number_field(2, 18));
}

}  // namespace

eb_status* Model::empty_sequence(const Port& port, OrtValue** out) const {
  OrtSession* session = nullptr;
  {
    const std::lock_guard lock(empty_mutex_);
    Handle<OrtSession>& known = empty_sessions_[port.dtype];
    if (!known) {
      const std::string model = empty_sequence_model(static_cast<std::uint64_t>(port.dtype));
      const std::vector<eb_file> files{{"(an empty sequence)", model.data(), model.size()}};
      EDGEBUILD_PLUGIN_TRY(create_session(backend_, files, {{"intra_op_threads", "1"}}, nullptr, &known));
    }
    session = known.get();
  }
  const char* const name = "v";
  return backend_.take(backend_.api().Run(session, nullptr, nullptr, nullptr, 0, &name, 1, out),
                       "input '" + port.name + "', an empty sequence");
}

}  // namespace edgebuild::onnxruntime
