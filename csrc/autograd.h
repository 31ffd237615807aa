#pragma once

#include "jumpstart_activation.h"

namespace jumpstart {

// The forward with an autograd node, for whatever the dispatcher's tensors are.
ForwardResult forward_autograd(const at::Tensor& x, const Options& options);

// Through the dispatcher, whatever it has for x.
ForwardResult call_forward(const at::Tensor& x, const Options& options);
ForwardResult call_inplace(const at::Tensor& x, const Options& options);

Saved save_for_backward(const at::Tensor& x, const ForwardResult& result, const Options& options);
// The gradient of x, differentiable if a graph of it is asked for; undefined if nothing is in the loss.
at::Tensor run_backward(const Gradients& gradients, const Saved& saved, const Options& options);

}  // namespace jumpstart
