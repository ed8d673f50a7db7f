#include "onnx_model.hpp"

namespace edgebuild::testing::onnx {
namespace {

std::string varint(std::uint64_t number) {
  std::string bytes;
  for (; number >= 128; number >>= 7) bytes += static_cast<char>((number & 127) | 128);
  return bytes + static_cast<char>(number);
}

/// A field that holds a number.
std::string number(unsigned field, std::uint64_t content) { return varint(field << 3) + varint(content); }

/// A field that holds bytes: a string or a message.
std::string bytes(unsigned field, const std::string& content) {
  return varint((field << 3) | 2) + varint(content.size()) + content;
}

std::string repeated(unsigned field, const std::vector<std::string>& contents) {
  std::string all;
  for (const std::string& content : contents) all += bytes(field, content);
  return all;
}

}  // namespace

std::string tensor(eb_dtype dtype, const std::vector<std::int64_t>& shape) {
  std::string dims;
  for (const std::int64_t size : shape) {
    dims += bytes(1, size < 0 ? std::string() : number(1, static_cast<std::uint64_t>(size)));
  }
  return bytes(1, number(1, dtype) + bytes(2, dims));
}

std::string symbolic(eb_dtype dtype, const std::vector<std::string>& axes) {
  std::string dims;
  for (const std::string& axis : axes) {
    const bool is_size = axis.find_first_not_of("0123456789") == std::string::npos;
    dims += bytes(1, is_size ? number(1, std::stoull(axis)) : bytes(2, axis));
  }
  return bytes(1, number(1, dtype) + bytes(2, dims));
}

std::string sequence(const std::string& element) { return bytes(4, bytes(1, element)); }
std::string optional(const std::string& element) { return bytes(9, bytes(1, element)); }
std::string value(const std::string& name, const std::string& type) { return bytes(1, name) + bytes(2, type); }

std::string node(const std::string& op_type, const std::vector<std::string>& inputs,
                 const std::vector<std::string>& outputs, const std::vector<std::string>& attributes) {
  return repeated(1, inputs) + repeated(2, outputs) + bytes(3, op_type + "_" + outputs.front()) + bytes(4, op_type) +
         repeated(5, attributes);
}

std::string attribute(const std::string& name, const std::string& graph) {
  return bytes(1, name) + bytes(6, graph) + number(20, 5);
}

std::string external(const std::string& name, std::int64_t size, const std::string& file) {
  return number(1, static_cast<std::uint64_t>(size)) + number(2, EB_FLOAT32) + bytes(8, name) +
         bytes(13, bytes(1, "location") + bytes(2, file)) + number(14, 1);
}

std::string truth(const std::string& name) {
  return number(2, EB_BOOL) + bytes(8, name) + bytes(9, std::string(1, '\1'));
}

std::string graph(const std::vector<std::string>& nodes, const std::vector<std::string>& inputs,
                  const std::vector<std::string>& outputs, const std::vector<std::string>& initializers) {
  return repeated(1, nodes) + bytes(2, "g") + repeated(5, initializers) + repeated(11, inputs) + repeated(12, outputs);
}

std::string model(const std::string& graph) {
  return number(1, 8) + bytes(7, graph) + bytes(8, bytes(1, "") + number(2, 18));
}

}  // namespace edgebuild::testing::onnx
