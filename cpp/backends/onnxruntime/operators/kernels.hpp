// The kernels of edgebuild's own operators: arguments checked, work shared out among the engine's threads.

#ifndef EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_KERNELS_HPP_
#define EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_KERNELS_HPP_

#include <array>

#include "onnxruntime/onnxruntime_c_api.h"

namespace edgebuild::onnxruntime {

/// An input or output of an operator.
struct Argument {
  ONNXTensorElementDataType type;
  OrtCustomOpInputOutputCharacteristic presence = INPUT_OUTPUT_REQUIRED;
};

/// See register.hpp.
class QuantizeRows {
 public:
  static constexpr char kName[] = "QuantizeRows";
  static constexpr std::array<Argument, 4> kInputs = {{
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, INPUT_OUTPUT_OPTIONAL},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
  }};
  static constexpr std::array<Argument, 5> kOutputs = {{
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
  }};

  static OrtStatus* create(const OrtApi& api, const OrtKernelInfo& info, QuantizeRows** out);
  OrtStatus* compute(OrtKernelContext& context) const;

 private:
  QuantizeRows(const OrtApi& api, bool scale_rows, bool two_terms) noexcept
      : api_(api), scale_rows_(scale_rows), two_terms_(two_terms) {}
  const OrtApi& api_;
  bool scale_rows_;
  bool two_terms_;
};

/// See register.hpp.
class RescaleRows {
 public:
  static constexpr char kName[] = "RescaleRows";
  static constexpr std::array<Argument, 5> kInputs = {{
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
      {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, INPUT_OUTPUT_OPTIONAL},
  }};
  static constexpr std::array<Argument, 1> kOutputs = {{{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}}};

  static OrtStatus* create(const OrtApi& api, const OrtKernelInfo& info, RescaleRows** out);
  OrtStatus* compute(OrtKernelContext& context) const;

 private:
  RescaleRows(const OrtApi& api, bool two_terms, bool gelu) noexcept : api_(api), two_terms_(two_terms), gelu_(gelu) {}
  const OrtApi& api_;
  bool two_terms_;
  bool gelu_;
};

}  // namespace edgebuild::onnxruntime

#endif  // EDGEBUILD_BACKENDS_ONNXRUNTIME_OPERATORS_KERNELS_HPP_
