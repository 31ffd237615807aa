// What a forward keeps for its backward, beside Options: the twin of Saved in ops/arguments.py.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/DimVector.h>

namespace jumpstart {

// Kept is a tensor, or what an autograd node keeps instead of one.
template <typename Kept>
struct SavedAs {
  Kept mask, extrema, indices;
  c10::SymDimVector size;  // of x
  bool channels_last;
  at::ScalarType dtype;  // of x
};

using Saved = SavedAs<at::Tensor>;

}  // namespace jumpstart
