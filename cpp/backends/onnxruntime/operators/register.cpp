#include "onnxruntime/operators/register.hpp"

#include "onnxruntime/operators/kernels.hpp"

namespace edgebuild::onnxruntime {
namespace {

constexpr char kDomain[] = "edgebuild";

// The signatures of the table's entries are the engine's.
const char* ORT_API_CALL no_provider(const OrtCustomOp* /*op*/) { return nullptr; }
OrtMemType ORT_API_CALL default_memory(const OrtCustomOp* /*op*/, std::size_t /*index*/) { return OrtMemTypeDefault; }
int ORT_API_CALL one(const OrtCustomOp* /*op*/) { return 1; }
std::size_t ORT_API_CALL no_pairs(int** /*inputs*/, int** /*outputs*/) { return 0; }
void ORT_API_CALL no_release(int* /*inputs*/, int* /*outputs*/) {}

template <typename Kernel>
OrtCustomOp table() {
  OrtCustomOp op = {};
  op.version = ORT_API_VERSION;
  op.GetName = [](const OrtCustomOp*) { return Kernel::kName; };
  op.GetExecutionProviderType = no_provider;
  op.GetInputTypeCount = [](const OrtCustomOp*) { return Kernel::kInputs.size(); };
  op.GetInputType = [](const OrtCustomOp*, std::size_t index) { return Kernel::kInputs[index].type; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, std::size_t index) { return Kernel::kInputs[index].presence; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return Kernel::kOutputs.size(); };
  op.GetOutputType = [](const OrtCustomOp*, std::size_t index) { return Kernel::kOutputs[index].type; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t index) { return Kernel::kOutputs[index].presence; };
  op.GetInputMemoryType = default_memory;
  op.GetVariadicInputMinArity = op.GetVariadicOutputMinArity = one;
  op.GetVariadicInputHomogeneity = op.GetVariadicOutputHomogeneity = one;
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
    return Kernel::create(*api, *info, reinterpret_cast<Kernel**>(kernel));
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return static_cast<const Kernel*>(kernel)->compute(*context);
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  op.GetStartVersion = op.GetEndVersion = one;
  op.GetMayInplace = op.GetAliasMap = no_pairs;
  op.ReleaseMayInplace = op.ReleaseAliasMap = no_release;
  return op;
}

}  // namespace

OrtStatus* make_operators(const OrtApi& api, OrtCustomOpDomain** out) {
  static const OrtCustomOp quantize = table<QuantizeRows>();
  static const OrtCustomOp rescale = table<RescaleRows>();
  OrtCustomOpDomain* made = nullptr;
  if (OrtStatus* const status = api.CreateCustomOpDomain(kDomain, &made)) return status;
  for (const OrtCustomOp* op : {&quantize, &rescale}) {
    if (OrtStatus* const status = api.CustomOpDomain_Add(made, op)) {
      api.ReleaseCustomOpDomain(made);
      return status;
    }
  }
  *out = made;
  return nullptr;
}

}  // namespace edgebuild::onnxruntime
