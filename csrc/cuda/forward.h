// The forward on a GPU, for operators that bring their own output.

#pragma once

#include "jumpstart_relu.h"

namespace jumpstart {

// The operator on an `x` that is dense as `layout` says. The output goes to `target`, which lies in memory
// like `x` and may be `x`; undefined, there is none. Runs on the current device, which must be that of `x`.
Outputs forward_into_cuda(const at::Tensor& x, const at::Tensor& target, const Layout& layout,
                          bool position_points, double margin, bool all_indices);

}  // namespace jumpstart
