// The entry by which another copy of ONNX Runtime in this process takes edgebuild's own operators: what its Python
// package calls in a library given to SessionOptions.register_custom_ops_library. The builder saves graphs with these
// operators through it.

#include "onnxruntime/operators/register.hpp"

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
  const OrtApi* const api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) return nullptr;   // There is nothing to make a status with; the session will miss the operators.
  OrtCustomOpDomain* domain = nullptr;  // Never released: nobody says when the sessions that it serves are gone.
  if (OrtStatus* const status = edgebuild::onnxruntime::make_operators(*api, &domain)) return status;
  return api->AddCustomOpDomain(options, domain);
}
