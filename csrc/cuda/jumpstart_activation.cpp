// Forward and backward on a GPU: PyTorch's allocator, the tensors' device, its current stream.

#include "jumpstart_activation.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/tensors.h"

namespace jumpstart {
namespace {

// The current device must be that of x.
ForwardResult run_forward(PreparedForward prepared, const Options& options) {
  if (prepared.is_done()) return prepared.finish();
  const auto& [layout, x, bias, target, result] = prepared;
  const bool with_output = target.defined();
  const cuda::ForwardCall call{scalar_of(x.scalar_type()),
                               x.const_data_ptr(),
                               const_address(bias),
                               address(target),
                               with_output ? result.mask.mutable_data_ptr<uint8_t>() : nullptr,
                               result.slack_sums.mutable_data_ptr(),
                               result.extrema.mutable_data_ptr(),
                               result.indices.mutable_data_ptr<int64_t>(),
                               layout,
                               options,
                               multiprocessors_of(x),
                               cuda::most_cluster_blocks(x.device().index())};
  const at::Tensor workspace = empty_workspace(cuda::forward_workspace(call), x);
  cuda::forward(call, address(workspace), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared.finish();
}

ForwardResult forward_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  return run_forward(prepare_forward(x, bias, options, /*overwrites_copy=*/true), options);
}

ForwardResult forward_inplace_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  return run_forward(prepare_inplace(x, bias, options), options);
}

InputGradients backward_cuda(const Gradients& gradients, const Saved& saved, const Options& options) {
  const c10::cuda::CUDAGuard guard(saved.extrema.device());
  const PreparedBackward prepared = prepare_backward(gradients, saved, options);
  if (prepared.is_done()) return prepared.finish();
  const cuda::BackwardCall call{scalar_of(saved.dtype),
                                const_address(prepared.gradients.output),
                                saved.mask.const_data_ptr<uint8_t>(),
                                prepared.grad_x.mutable_data_ptr(),
                                const_address(prepared.gradients.slack_sums),
                                const_address(prepared.gradients.extrema),
                                saved.extrema.const_data_ptr(),
                                saved.indices.const_data_ptr<int64_t>(),
                                address(prepared.bias_sums),
                                prepared.layout,
                                options,
                                multiprocessors_of(saved.extrema)};
  const at::Tensor workspace = empty_workspace(cuda::backward_workspace(call), saved.extrema);
  cuda::backward(call, address(workspace), c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared.finish();
}

}  // namespace
}  // namespace jumpstart

TORCH_LIBRARY_IMPL(jumpstart_kernels, CUDA, m) {
  m.impl("jumpstart_activation.native", jumpstart::flat_forward<jumpstart::forward_cuda>);
  m.impl("jumpstart_activation_.native", jumpstart::flat_inplace<jumpstart::forward_inplace_cuda>);
  m.impl("jumpstart_activation_backward.native", jumpstart::flat_backward<jumpstart::backward_cuda>);
}
