// From PyTorch's tensors to what the kernels' host interface takes.

#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <optional>

#include "jumpstart_activation.h"

namespace jumpstart {

// Makes a device the current one; a guard asks for it several times, and when it ends once more.
class OnDevice {
 public:
  explicit OnDevice(at::Device device) {
    if (c10::cuda::current_device() != device.index()) guard_.emplace(device);
  }

 private:
  std::optional<c10::cuda::CUDAGuard> guard_;
};

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
