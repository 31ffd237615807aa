// The penalty on a GPU, without reading anything on the host.

#include "penalty.h"

#include <c10/cuda/CUDAException.h>
#include <torch/library.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/tensors.h"
#include "slack.h"

namespace jumpstart {

at::Tensor penalty_cuda(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root) {
  check_penalty(slack_sums, weights);
  const at::Tensor& first = slack_sums[0];
  const c10::cuda::CUDAGuard guard(first.device());
  std::vector<at::Tensor> dense;
  std::vector<const void*> memory;
  for (const at::Tensor& sums : slack_sums) {
    dense.push_back(sums.contiguous());
    memory.push_back(dense.back().const_data_ptr());
  }
  at::Tensor value = empty_beside(first, {}, first.scalar_type()), total;
  const auto layers = static_cast<int64_t>(dense.size());
  if (layers > cuda::kPenaltyLayers) total = empty_beside(first, {}, at::kDouble);
  const cuda::PenaltyCall call{
      first.scalar_type() == at::kDouble,
      memory.data(),
      layers,
      weights.data(),
      square_root,
      value.mutable_data_ptr(),
      total.defined() ? total.mutable_data_ptr<double>() : nullptr,
  };
  cuda::penalty(call, stream_of(first));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return value;
}

at::Tensor penalty_backward_cuda(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                 at::ArrayRef<double> weights) {
  TORCH_CHECK_VALUE(!value.has_value() || value->device() == grad.device(),
                    "grad must be on the device of the penalty, ", value->device(), ", got ", grad.device());
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor by_sum = empty_beside(grad, {2, kSlackSums}, grad.scalar_type());
  const cuda::PenaltyGradientCall call{grad.const_data_ptr(),
                                       value.has_value() ? value->const_data_ptr() : nullptr, weights.data()};
  cuda::penalty_backward(grad.scalar_type() == at::kDouble, call, by_sum.mutable_data_ptr(), stream_of(grad));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return by_sum;
}

}  // namespace jumpstart

TORCH_LIBRARY_IMPL(jumpstart_kernels, CUDA, m) {
  m.impl("penalty.native", jumpstart::penalty_cuda);
  m.impl("penalty_backward.native", jumpstart::penalty_backward_cuda);
}
