// The comparison's other side: ONNX Runtime's C API with nothing around it. Header-only, C11 and C++.

#ifndef EDGEBUILD_BENCHMARKS_BARE_H_
#define EDGEBUILD_BENCHMARKS_BARE_H_

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime/onnxruntime_c_api.h"

#define BARE_MAX_IO 16

/// A session with buffers of ones for its inputs and values for its outputs.
typedef struct bare_model {
  const OrtApi* api;
  OrtEnv* env;
  OrtSession* session;
  OrtMemoryInfo* memory;
  size_t inputs;
  size_t outputs;
  char* input_names[BARE_MAX_IO];
  char* output_names[BARE_MAX_IO];
  OrtValue* input_values[BARE_MAX_IO];
  OrtValue* output_values[BARE_MAX_IO];
  void* output_buffers[BARE_MAX_IO];
} bare_model;

static void bare_check(const OrtApi* api, OrtStatus* status, const char* what) {
  if (status == NULL) return;
  fprintf(stderr, "bare: %s: %s\n", what, api->GetErrorMessage(status));
  exit(1);
}

static size_t bare_bytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
      return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return 2;
    default:
      return 1;
  }
}

/// A tensor of the described shape, unknown sizes taken as 1; inputs are filled with ones (of float32) or zeros.
static OrtValue* bare_tensor(bare_model* m, OrtTypeInfo* info, void** buffer) {
  const OrtTensorTypeAndShapeInfo* shape_info = NULL;
  bare_check(m->api, m->api->CastTypeInfoToTensorInfo(info, &shape_info), "type");
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  bare_check(m->api, m->api->GetTensorElementType(shape_info, &type), "element type");
  size_t rank = 0;
  bare_check(m->api, m->api->GetDimensionsCount(shape_info, &rank), "rank");
  int64_t shape[16];
  bare_check(m->api, m->api->GetDimensions(shape_info, shape, rank), "shape");
  size_t count = 1;
  for (size_t i = 0; i < rank; ++i) {
    if (shape[i] < 0) shape[i] = 1;
    count *= (size_t)shape[i];
  }
  const size_t bytes = count * bare_bytes(type);
  *buffer = calloc(bytes > 0 ? bytes : 1, 1);
  if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    for (size_t i = 0; i < count; ++i) ((float*)*buffer)[i] = 1.0f;
  }
  OrtValue* value = NULL;
  bare_check(m->api, m->api->CreateTensorWithDataAsOrtValue(m->memory, *buffer, bytes, shape, rank, type, &value),
             "tensor");
  m->api->ReleaseTypeInfo(info);
  return value;
}

/// Opens the library and the model; ends the program with a message if anything fails.
static void bare_load(bare_model* m, const char* library, const char* model, int threads) {
  memset(m, 0, sizeof(*m));
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == NULL) {
    fprintf(stderr, "bare: %s\n", dlerror());
    exit(1);
  }
  const OrtApiBase* (*get_base)(void) = NULL;
  *(void**)(&get_base) = dlsym(handle, "OrtGetApiBase");
  m->api = get_base()->GetApi(ORT_API_VERSION);
  bare_check(m->api, m->api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bare", &m->env), "env");
  OrtSessionOptions* options = NULL;
  bare_check(m->api, m->api->CreateSessionOptions(&options), "options");
  bare_check(m->api, m->api->SetIntraOpNumThreads(options, threads), "threads");
  bare_check(m->api, m->api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL), "optimization");
  bare_check(m->api, m->api->CreateSession(m->env, model, options, &m->session), "session");
  m->api->ReleaseSessionOptions(options);
  bare_check(m->api, m->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &m->memory), "memory");
  OrtAllocator* allocator = NULL;
  bare_check(m->api, m->api->GetAllocatorWithDefaultOptions(&allocator), "allocator");
  bare_check(m->api, m->api->SessionGetInputCount(m->session, &m->inputs), "inputs");
  bare_check(m->api, m->api->SessionGetOutputCount(m->session, &m->outputs), "outputs");
  for (size_t i = 0; i < m->inputs; ++i) {
    OrtTypeInfo* info = NULL;
    void* buffer = NULL;
    bare_check(m->api, m->api->SessionGetInputName(m->session, i, allocator, &m->input_names[i]), "input name");
    bare_check(m->api, m->api->SessionGetInputTypeInfo(m->session, i, &info), "input type");
    m->input_values[i] = bare_tensor(m, info, &buffer);
  }
  for (size_t i = 0; i < m->outputs; ++i) {
    OrtTypeInfo* info = NULL;
    bare_check(m->api, m->api->SessionGetOutputName(m->session, i, allocator, &m->output_names[i]), "output name");
    bare_check(m->api, m->api->SessionGetOutputTypeInfo(m->session, i, &info), "output type");
    m->output_values[i] = bare_tensor(m, info, &m->output_buffers[i]);
  }
}

/// One inference into the same buffers.
static void bare_run(bare_model* m) {
  bare_check(m->api,
             m->api->Run(m->session, NULL, (const char* const*)m->input_names, (const OrtValue* const*)m->input_values,
                         m->inputs, (const char* const*)m->output_names, m->outputs, m->output_values),
             "run");
}

#endif  // EDGEBUILD_BENCHMARKS_BARE_H_
