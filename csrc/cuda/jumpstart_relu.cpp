// Forward and backward on a GPU: memory from PyTorch's allocator, the tensors' device, its current stream.

#include "cuda/forward.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <tuple>

#include "cuda/kernels.h"

namespace jumpstart {
namespace {

int multiprocessors_of(at::Device device) {
  int count = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device.index()));
  return count;
}

}  // namespace

Outputs forward_into_cuda(const at::Tensor& x, const at::Tensor& target, const Layout& layout,
                          bool position_points, double margin, bool all_indices) {
  const bool apply_relu = target.defined();
  at::Tensor mask, slack_sums, extrema, indices;
  std::tie(mask, slack_sums, extrema, indices) = allocate_outputs(x, layout, position_points, apply_relu);
  if (x.numel() == 0) return {target, mask, slack_sums, extrema, indices};
  const cuda::ForwardCall call{scalar_of(x.scalar_type()),
                               x.const_data_ptr(),
                               apply_relu ? target.mutable_data_ptr() : nullptr,
                               apply_relu ? mask.mutable_data_ptr<uint8_t>() : nullptr,
                               slack_sums.mutable_data_ptr(),
                               extrema.mutable_data_ptr(),
                               indices.mutable_data_ptr<int64_t>(),
                               layout,
                               position_points,
                               all_indices,
                               margin,
                               multiprocessors_of(x.device())};
  const int64_t bytes = cuda::forward_workspace(call);
  const at::Tensor workspace = bytes ? at::empty({bytes}, x.options().dtype(at::kByte)) : at::Tensor();
  cuda::forward(call, bytes ? workspace.mutable_data_ptr() : nullptr, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return {target, mask, slack_sums, extrema, indices};
}

namespace {

Outputs forward_cuda(const at::Tensor& x, int64_t unit_dim, bool position_points, double margin,
                     bool apply_relu, bool all_indices) {
  const c10::cuda::CUDAGuard guard(x.device());
  const bool channels_last = runs_channels_last(x, unit_dim);
  const Layout layout = make_layout(x.sizes(), unit_dim, channels_last);
  const auto format = memory_format(static_cast<size_t>(x.dim()), channels_last);
  const at::Tensor dense = x.contiguous(format);
  // Where the kernels do not know the order of F.relu's strides, they run in place in their copy.
  at::Tensor output = apply_relu ? empty_output(x) : at::empty({0}, x.options());
  const bool direct = output.is_contiguous(format);
  const at::Tensor target = !apply_relu ? at::Tensor() : direct ? output : dense;
  auto outputs = forward_into_cuda(dense, target, layout, position_points, margin, all_indices);
  if (apply_relu && !direct) output.copy_(target);
  std::get<0>(outputs) = output;
  return outputs;
}

InplaceOutputs forward_inplace_cuda(at::Tensor x, int64_t unit_dim, bool position_points, double margin) {
  const c10::cuda::CUDAGuard guard(x.device());
  const Layout layout = make_layout(x.sizes(), unit_dim, runs_channels_last(x, unit_dim));
  auto [output, mask, slack_sums, extrema, indices] =
      forward_into_cuda(x, x, layout, position_points, margin, /*all_indices=*/false);
  return {mask, slack_sums, extrema, indices};
}

at::Tensor backward_cuda(const std::optional<at::Tensor>& grad_output,
                         const std::optional<at::Tensor>& grad_slack_sums,
                         const std::optional<at::Tensor>& grad_extrema, const at::Tensor& mask,
                         const at::Tensor& extrema, const at::Tensor& indices, at::IntArrayRef size,
                         bool channels_last, at::ScalarType dtype, int64_t unit_dim, double margin) {
  const c10::cuda::CUDAGuard guard(extrema.device());
  const auto format = memory_format(size.size(), channels_last);
  const Layout layout = make_layout(size, unit_dim, channels_last);
  at::Tensor grad_x = at::empty(size, extrema.options().dtype(dtype).memory_format(format));
  if (grad_x.numel() == 0) return grad_x;
  if (grad_output.has_value()) {
    TORCH_CHECK_VALUE(grad_output->sizes() == size && grad_output->scalar_type() == dtype,
                      "grad_output must have the shape and dtype of the output, ", size, " ", dtype, ", got ",
                      grad_output->sizes(), " ", grad_output->scalar_type());
  }
  const auto dense = [](const std::optional<at::Tensor>& grad, at::MemoryFormat order) {
    return grad.has_value() ? grad->contiguous(order) : at::Tensor();
  };
  const auto data = [](const at::Tensor& grad) { return grad.defined() ? grad.const_data_ptr() : nullptr; };
  const at::Tensor by_output = dense(grad_output, format);
  const at::Tensor by_sums = dense(grad_slack_sums, at::MemoryFormat::Contiguous);
  const at::Tensor by_extrema = dense(grad_extrema, at::MemoryFormat::Contiguous);
  const cuda::BackwardCall call{scalar_of(dtype),
                                data(by_output),
                                mask.const_data_ptr<uint8_t>(),
                                grad_x.mutable_data_ptr(),
                                data(by_sums),
                                data(by_extrema),
                                extrema.const_data_ptr(),
                                indices.const_data_ptr<int64_t>(),
                                layout,
                                extrema.size(1) - layout.units,
                                margin,
                                multiprocessors_of(extrema.device())};
  cuda::backward(call, c10::cuda::getCurrentCUDAStream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return grad_x;
}

}  // namespace
}  // namespace jumpstart

TORCH_LIBRARY_IMPL(jumpstart_kernels, CUDA, m) {
  m.impl("jumpstart_relu.native", jumpstart::forward_cuda);
  m.impl("jumpstart_relu_.native", jumpstart::forward_inplace_cuda);
  m.impl("jumpstart_relu_backward.native", jumpstart::backward_cuda);
}
