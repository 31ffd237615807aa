// The penalty over all layers as one operator; defined in ops/reference.py.

#pragma once

#include <ATen/ATen.h>

#include <optional>

namespace jumpstart {

// Throws if the arguments are invalid.
void check_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights);

at::Tensor penalty_cpu(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// Gradient [2, 5] of every layer's slack sums; `value` is the penalty if it is a square root.
at::Tensor penalty_backward_cpu(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                at::ArrayRef<double> weights);

// The same on a GPU, in a build with CUDA.
at::Tensor penalty_cuda(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);
at::Tensor penalty_backward_cuda(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                 at::ArrayRef<double> weights);

// The penalty with an autograd node, for any kind of tensor that the dispatcher passes.
at::Tensor penalty_autograd(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// The operator, through the dispatcher.
at::Tensor call_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// Gradient of every layer's slack sums, through the dispatcher; differentiable in grad mode.
at::Tensor run_penalty_backward(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                at::ArrayRef<double> weights);

}  // namespace jumpstart
