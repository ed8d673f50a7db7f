// Stands in for CUDA's header of this name where TensorRT's headers ask for it: they need two opaque handles and
// nothing else, so that the plugin compiles for any board without a CUDA toolkit.

#ifndef EDGEBUILD_BACKENDS_TENSORRT_CUDA_RUNTIME_API_H_
#define EDGEBUILD_BACKENDS_TENSORRT_CUDA_RUNTIME_API_H_

#include <stddef.h>
#include <stdint.h>

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

#endif  // EDGEBUILD_BACKENDS_TENSORRT_CUDA_RUNTIME_API_H_
