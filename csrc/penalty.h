// The penalty over all layers as one operator: meaning in jumpstart_kernels/ops/reference.py.

#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <cstddef>
#include <optional>

namespace jumpstart {

// Raises for arguments that the operator does not take.
void check_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights);

at::Tensor penalty_cpu(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// Gradient [2, 5] of every layer's slack sums; `value` is the penalty if it is a square root.
at::Tensor penalty_backward_cpu(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                at::ArrayRef<double> weights);

// The penalty with an autograd node, for whatever the dispatcher's tensors are.
at::Tensor penalty_autograd(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// Through the dispatcher, whatever it has for the sums.
at::Tensor call_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// The gradients of so many layers' sums, differentiable if a graph of them is asked for.
torch::autograd::variable_list run_penalty_backward(const at::Tensor& grad,
                                                    const std::optional<at::Tensor>& value,
                                                    at::ArrayRef<double> weights, size_t layers);

}  // namespace jumpstart
