// From PyTorch's tensors to what the kernels' host interface takes.

#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

#include "jumpstart_activation.h"

namespace jumpstart {

inline int multiprocessors_of(const at::Tensor& tensor) {
  int count = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, tensor.device().index()));
  return count;
}

inline c10::cuda::CUDAStream stream_of(const at::Tensor& tensor) {
  return c10::cuda::getCurrentCUDAStream(tensor.device().index());
}

// Null if it is undefined.
inline void* address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr() : nullptr;
}
inline const void* const_address(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// Undefined if it has no bytes.
inline at::Tensor empty_workspace(int64_t bytes, const at::Tensor& like) {
  return bytes ? empty_beside(like, {bytes}, at::kByte) : at::Tensor();
}

}  // namespace jumpstart
