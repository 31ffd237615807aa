// From PyTorch's tensors to what the kernels' host interface takes.

#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

#include "cuda/kernels.h"
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

// A call's workspace, on the device of another tensor, which is the current one. It lives as long as this: a
// stream's next call may have its memory.
class WorkspaceMemory {
 public:
  explicit WorkspaceMemory(const at::Tensor& beside) : beside_(beside) {}
  cuda::Allocate allocate() {
    return [this](int64_t bytes) {
      memory_ = empty_beside(beside_, {bytes}, at::kByte);
      return memory_.mutable_data_ptr();
    };
  }

 private:
  const at::Tensor& beside_;
  at::Tensor memory_;
};

}  // namespace jumpstart
