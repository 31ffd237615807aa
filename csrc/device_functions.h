// The operators' functions of a type of device, for calls without the dispatcher, which takes as long as a
// thin layer.

#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>

#include "jumpstart_activation.h"
#include "penalty.h"

namespace jumpstart {

struct DeviceFunctions {
  decltype(&forward_cpu) forward, forward_inplace;
  decltype(&backward_cpu) backward;
  decltype(&penalty_cpu) penalty;
  decltype(&penalty_backward_cpu) penalty_backward;
};

// What the dispatcher would call for x, below autograd; null if a mode, transform, subclass or lazy value
// comes before it, or if this build has none.
const DeviceFunctions* functions_for(const at::Tensor& x);
// The same for all of some tensors, of which undefined ones do not count; at least one is defined.
const DeviceFunctions* functions_for(std::initializer_list<const at::Tensor*> tensors);

}  // namespace jumpstart
