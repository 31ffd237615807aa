// Forward and backward of the linked activations on a GPU.

#include "linked_activation.h"

#include <c10/cuda/CUDAException.h>
#include <torch/library.h>

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/tensors.h"

namespace jumpstart {
namespace {

// The kernels load slopes 16 bytes at once; a parameter may be a view of other memory.
at::Tensor aligned(const at::Tensor& slopes) {
  const bool copies = slopes.defined() && reinterpret_cast<uintptr_t>(slopes.const_data_ptr()) % 16 != 0;
  return copies ? slopes.clone() : slopes;
}

ForwardResult linked_forward_cuda(const at::Tensor& x, const at::Tensor& weight,
                                  const LinkedOptions& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  PreparedLinkedForward prepared = prepare_linked_forward(x, weight, options);
  if (prepared.is_done()) return std::move(prepared.result);
  const ForwardResult& result = prepared.result;
  const bool with_statistics = options.with_statistics;
  const at::Tensor slopes = aligned(prepared.slopes);
  const cuda::LinkedForwardCall call{
      {scalar_of(x.scalar_type()), prepared.x.const_data_ptr(), nullptr, result.output.mutable_data_ptr(),
       result.mask.numel() ? result.mask.mutable_data_ptr<uint8_t>() : nullptr,
       with_statistics ? result.slack_sums.mutable_data_ptr() : nullptr,
       with_statistics ? result.extrema.mutable_data_ptr() : nullptr,
       with_statistics ? result.indices.mutable_data_ptr<int64_t>() : nullptr, prepared.layout,
       options.statistics, multiprocessors_of(x), cuda::most_cluster_blocks(x.device().index())},
      options.kind,
      const_address(slopes)};
  WorkspaceMemory workspace(x);
  cuda::linked_forward(call, workspace.allocate(), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return std::move(prepared.result);
}

LinkedInputGradients linked_backward_cuda(const Gradients& gradients, const LinkedSaved& saved,
                                          const LinkedOptions& options) {
  const c10::cuda::CUDAGuard guard(saved.mask.device());
  const PreparedLinkedBackward prepared = prepare_linked_backward(gradients, saved, options);
  const auto& [layout, dense, grad_x, slope_sums] = prepared.common;
  if (prepared.common.is_done()) return prepared.finish();
  if (!dense.output.defined()) {
    grad_x.zero_();
    if (slope_sums.defined()) slope_sums.zero_();
  }
  const at::Tensor slopes = aligned(prepared.slopes);
  const cuda::LinkedBackwardCall call{
      {scalar_of(saved.dtype), const_address(dense.output),
       saved.mask.numel() ? saved.mask.const_data_ptr<uint8_t>() : nullptr, grad_x.mutable_data_ptr(),
       const_address(dense.slack_sums), const_address(dense.extrema), saved.extrema.const_data_ptr(),
       saved.indices.const_data_ptr<int64_t>(), address(slope_sums), layout, options.statistics,
       multiprocessors_of(grad_x)},
      options.kind,
      const_address(prepared.x),
      const_address(slopes)};
  WorkspaceMemory workspace(grad_x);
  cuda::linked_backward(call, workspace.allocate(), stream_of(grad_x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared.finish();
}

}  // namespace
}  // namespace jumpstart

TORCH_LIBRARY_IMPL(jumpstart_kernels, CUDA, m) {
  m.impl("linked_activation.native", jumpstart::flat_linked_forward<jumpstart::linked_forward_cuda>);
  m.impl("linked_activation_backward.native",
         jumpstart::flat_linked_backward<jumpstart::linked_backward_cuda>);
}
