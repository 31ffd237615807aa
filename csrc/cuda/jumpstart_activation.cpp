// Forward and backward on a GPU: PyTorch's allocator, the tensors' device, its current stream.

#include "jumpstart_activation.h"

#include <ATen/EmptyTensor.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <torch/library.h>

#include <cstdint>

#include "blocks.h"
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
  WorkspaceMemory workspace(x);
  cuda::forward(call, workspace.allocate(), stream_of(x));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared.finish();
}

// Who asks for other extrema than those of the penalty keeps them, and would keep mask and indices, too.
Memory memory_of(const Options& options, Memory memory) {
  return options.extrema_kind == kLimited ? memory : Memory::separate;
}

cuda::PenaltyGradientCall gradient_of(const PenaltyGradient* penalty) {
  if (penalty == nullptr) return {};
  return {const_address(penalty->grad), const_address(penalty->root), penalty->weights.data()};
}

}  // namespace

at::Tensor empty_cuda(at::IntArrayRef size, at::ScalarType dtype, at::MemoryFormat format) {
  if (fills_memory()) {
    return at::empty(size, at::TensorOptions(at::kCUDA).dtype(dtype).memory_format(format));
  }
  // What at::empty does, without the dispatcher and two guards of the device.
  return at::Tensor(at::detail::empty_generic(size, c10::cuda::CUDACachingAllocator::get(),
                                              c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype, format));
}

template <Memory memory>
ForwardResult forward_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Memory kept = memory_of(options, memory);
  return run_forward(prepare_forward(x, bias, options, /*overwrites_copy=*/true, kept), options);
}

template <Memory memory>
ForwardResult forward_inplace_cuda(const at::Tensor& x, const at::Tensor& bias, const Options& options) {
  const c10::cuda::CUDAGuard guard(x.device());
  return run_forward(prepare_inplace(x, bias, options, memory_of(options, memory)), options);
}

template ForwardResult forward_cuda<Memory::together>(const at::Tensor&, const at::Tensor&, const Options&);
template ForwardResult forward_inplace_cuda<Memory::together>(const at::Tensor&, const at::Tensor&,
                                                              const Options&);

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
                                multiprocessors_of(saved.extrema),
                                gradient_of(prepared.gradients.penalty)};
  WorkspaceMemory workspace(saved.extrema);
  cuda::backward(call, workspace.allocate(), stream_of(saved.extrema));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return prepared.finish();
}

}  // namespace jumpstart

TORCH_LIBRARY_IMPL(jumpstart_kernels, CUDA, m) {
  using jumpstart::Memory;
  m.impl("jumpstart_activation.native", jumpstart::flat_forward<jumpstart::forward_cuda<Memory::separate>>);
  m.impl("jumpstart_activation_.native",
         jumpstart::flat_inplace<jumpstart::forward_inplace_cuda<Memory::separate>>);
  m.impl("jumpstart_activation_backward.native", jumpstart::flat_backward<jumpstart::backward_cuda>);
}
