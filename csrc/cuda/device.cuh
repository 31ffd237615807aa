// CUDA's language, or, without a CUDA compiler, an emulator of it (tests/cuda_emulator).

#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define JUMPSTART_DEVICE __device__ __forceinline__

namespace jumpstart {
namespace cuda {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(arguments...);
}

}  // namespace cuda
}  // namespace jumpstart

#else

#include "cuda_emulator.h"

#endif
