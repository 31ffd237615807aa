// What the forward saves for its backward, besides Options; the counterpart of Saved in ops/arguments.py.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/DimVector.h>

namespace jumpstart {

// Kept is at::Tensor, or what an autograd node holds in place of one.
template <typename Kept>
struct SavedAs {
  Kept mask, extrema, indices;
  c10::SymDimVector size;  // of x
  bool channels_last;
  at::ScalarType dtype;  // of x, and of the bias
  bool with_grad_bias;   // whether there is a bias that needs a gradient
};

using Saved = SavedAs<at::Tensor>;

}  // namespace jumpstart
