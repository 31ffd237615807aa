// The gradient of a penalty, from which that of each layer's slack sums follows.

#pragma once

#include <algorithm>

#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

struct Weights {
  double of[kLayerSums];
};

inline Weights make_weights(const double* weights) {
  Weights w{};
  std::copy_n(weights, kLayerSums, w.of);
  return w;
}

template <typename stat_t>
struct PenaltyGradient {
  const stat_t* grad;  // []; null: none
  const stat_t* root;  // [], the penalty; null unless it is a square root
  Weights weights;

  JUMPSTART_DEVICE stat_t of_sum(int i) const {
    const stat_t given = *grad, value = root ? *root : stat_t{1};  // loaded at once
    return static_cast<stat_t>(penalty_factor(given, root, value) * weights.of[i]);
  }
};

template <typename stat_t>
PenaltyGradient<stat_t> make_penalty_gradient(const PenaltyGradientCall& call) {
  if (!call.grad) return {};
  return {static_cast<const stat_t*>(call.grad), static_cast<const stat_t*>(call.root),
          make_weights(call.weights)};
}

}  // namespace cuda
}  // namespace jumpstart
