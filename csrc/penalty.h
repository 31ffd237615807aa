// The penalty over all layers as one operator: meaning in jumpstart_kernels/kernels/penalty.py.

#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace jumpstart {

constexpr int64_t kLayerSums = 10;  // of a layer: [2, 5]

// Raises for arguments that the operator does not take.
void check_penalty(at::TensorList slack_sums, at::ArrayRef<double> weights);

at::Tensor penalty_cpu(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

// Gradient [2, 5] of every layer's slack sums; `value` is the penalty if it is a square root.
at::Tensor penalty_backward_cpu(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                at::ArrayRef<double> weights);

using PenaltySchema = at::Tensor(at::TensorList, at::ArrayRef<double>, bool);

const c10::TypedOperatorHandle<PenaltySchema>& penalty_op();

// The backward operator; differentiable if a graph of it is asked for.
at::Tensor run_penalty_backward(const at::Tensor& grad, const std::optional<at::Tensor>& value,
                                at::ArrayRef<double> weights);

at::Tensor penalty_autograd(at::TensorList slack_sums, at::ArrayRef<double> weights, bool square_root);

}  // namespace jumpstart
