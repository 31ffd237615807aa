// What the backward of a penalty has been given: the gradient of every layer's slack sums follows from it.

#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace jumpstart {

struct PenaltyGradient {
  at::Tensor grad;              // []
  at::Tensor root;              // [], the penalty; undefined unless it is a square root
  std::vector<double> weights;  // [kLayerSums]
};

}  // namespace jumpstart
