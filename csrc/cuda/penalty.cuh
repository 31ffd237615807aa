// The penalty over all layers' slack sums, and its gradient; see ops/reference.py.

#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/plan.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

struct Weights {
  double of[kLayerSums];
};

template <typename stat_t>
struct Penalty {
  const stat_t* slack_sums[kPenaltyLayers];
  Weights weights;
  stat_t* value;
  double* total;  // of the layers so far; null if one launch takes them all
  int32_t layers;
  bool first, last, square_root;
};

// One block. Sums in double, in a fixed order.
template <typename stat_t>
__global__ void __launch_bounds__(kThreads) penalty_kernel(const __grid_constant__ Penalty<stat_t> p) {
  __shared__ double sums[kThreads];
  const auto thread = static_cast<int>(threadIdx.x);
  double sum = 0;
  for (int layer = thread; layer < p.layers; layer += kThreads) {
    const stat_t* of_layer = p.slack_sums[layer];
#pragma unroll
    for (int i = 0; i < kLayerSums; ++i) {
      // A sum with weight 0 is left out, even if it is not finite.
      if (p.weights.of[i] != 0) sum += p.weights.of[i] * of_layer[i];
    }
  }
  sums[thread] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread > 0) return;
  double total = sums[0] + (p.first ? 0 : *p.total);
  if (!p.last) {
    *p.total = total;
    return;
  }
  *p.value = static_cast<stat_t>(p.square_root ? sqrt(total) : total);
}

template <typename stat_t>
struct PenaltyBackward {
  const stat_t* grad;   // []
  const stat_t* value;  // [], the penalty; null unless it is a square root
  stat_t* by_sum;       // [2, kSlackSums]
  Weights weights;
};

template <typename stat_t>
__global__ void __launch_bounds__(kWarpSize)
    penalty_backward_kernel(const __grid_constant__ PenaltyBackward<stat_t> p) {
  if (threadIdx.x >= kLayerSums) return;
  double factor = *p.grad;
  if (p.value) factor = *p.value == 0 ? 0 : factor / (2 * static_cast<double>(*p.value));  // gradient 0 at 0
  p.by_sum[threadIdx.x] = static_cast<stat_t>(factor * p.weights.of[threadIdx.x]);
}

}  // namespace cuda
}  // namespace jumpstart
