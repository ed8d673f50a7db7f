// ONNX models made by hand: just enough of the protobuf encoding for small graphs, so that the tests need no Python.

#ifndef EDGEBUILD_TESTS_RUNNER_ONNX_MODEL_HPP_
#define EDGEBUILD_TESTS_RUNNER_ONNX_MODEL_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "edgebuild/backend_plugin.h"

namespace edgebuild::testing::onnx {

/// A TypeProto. A size of -1 is a dynamic axis.
[[nodiscard]] std::string tensor(eb_dtype dtype, const std::vector<std::int64_t>& shape);
/// A TypeProto whose axes are sizes ("2") or symbols ("n").
[[nodiscard]] std::string symbolic(eb_dtype dtype, const std::vector<std::string>& axes);
[[nodiscard]] std::string sequence(const std::string& element);
[[nodiscard]] std::string optional(const std::string& element);

/// A ValueInfoProto.
[[nodiscard]] std::string value(const std::string& name, const std::string& type);
/// A NodeProto; `attributes` are AttributeProtos.
[[nodiscard]] std::string node(const std::string& op_type, const std::vector<std::string>& inputs,
                               const std::vector<std::string>& outputs,
                               const std::vector<std::string>& attributes = {});
[[nodiscard]] std::string attribute(const std::string& name, const std::string& graph);
/// A TensorProto of float32 whose data lie in another file.
[[nodiscard]] std::string external(const std::string& name, std::int64_t size, const std::string& file);
/// A TensorProto of one bool.
[[nodiscard]] std::string truth(const std::string& name);

[[nodiscard]] std::string graph(const std::vector<std::string>& nodes, const std::vector<std::string>& inputs,
                                const std::vector<std::string>& outputs,
                                const std::vector<std::string>& initializers = {});
/// A ModelProto, opset 18.
[[nodiscard]] std::string model(const std::string& graph);

}  // namespace edgebuild::testing::onnx

#endif  // EDGEBUILD_TESTS_RUNNER_ONNX_MODEL_HPP_
