#pragma once

#include "jumpstart_activation.h"

namespace jumpstart {

// The forward with an autograd node, for any kind of tensor that the dispatcher passes.
ForwardResult forward_autograd(const at::Tensor& x, const at::Tensor& bias, const Options& options);

// The operators, through the dispatcher.
ForwardResult call_forward(const at::Tensor& x, const at::Tensor& bias, const Options& options);
ForwardResult call_inplace(const at::Tensor& x, const at::Tensor& bias, const Options& options);

Saved save_for_backward(const at::Tensor& x, const at::Tensor& bias, const ForwardResult& result,
                        const Options& options);
// Gradients of x and bias, through the dispatcher; differentiable in grad mode.
InputGradients run_backward(const Gradients& gradients, const Saved& saved, const Options& options);

}  // namespace jumpstart
