#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include "jumpstart_relu.h"

namespace jumpstart {

using ForwardSchema = Outputs(const at::Tensor&, int64_t, bool, double, bool, bool);

const c10::TypedOperatorHandle<ForwardSchema>& forward_op();

// The backward operator, for gradients that may be undefined; differentiable if a graph of it is asked for.
at::Tensor run_backward(const at::Tensor& grad_output, const at::Tensor& grad_slack_sums,
                        const at::Tensor& grad_extrema, const at::Tensor& mask, const at::Tensor& extrema,
                        const at::Tensor& indices, c10::SymIntArrayRef size, bool channels_last,
                        at::ScalarType dtype, int64_t unit_dim, double margin);

Outputs forward_autograd(const at::Tensor& x, int64_t unit_dim, bool position_points, double margin,
                         bool apply_relu, bool all_indices);

}  // namespace jumpstart
