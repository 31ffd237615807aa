#pragma once

#include "jumpstart_relu.h"

namespace jumpstart {

Outputs forward_autograd(const at::Tensor& x, int64_t unit_dim, bool position_points, double margin,
                         bool apply_relu, bool all_indices);

}  // namespace jumpstart
