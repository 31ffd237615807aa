// The penalty over all layers' slack sums, and its gradient; see ops/reference.py.

#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/kernels.h"
#include "cuda/penalty_gradient.cuh"
#include "cuda/plan.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

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

// For layers whose own backward does not take the penalty's. `by_sum`: [2, kSlackSums].
template <typename stat_t>
__global__ void __launch_bounds__(kWarpSize)
    penalty_backward_kernel(const __grid_constant__ PenaltyGradient<stat_t> penalty, stat_t* by_sum) {
  if (threadIdx.x < kLayerSums) by_sum[threadIdx.x] = penalty.of_sum(static_cast<int>(threadIdx.x));
}

}  // namespace cuda
}  // namespace jumpstart
