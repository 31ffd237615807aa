// The gradient of a bias: what the backward adds up of each unit, and the launch that merges it.

#pragma once

#include <cstdint>

#include "cuda/bias.cuh"
#include "cuda/device.cuh"
#include "cuda/extrema.cuh"
#include "cuda/extrema_gradients.cuh"
#include "cuda/plan.h"

namespace jumpstart {
namespace cuda {

// A kernel's last argument, as Bias is.
template <typename stat_t, UnitsAre are>
struct BiasSums {
  static constexpr UnitsAre kUnitsAre = are;
  stat_t* sums;      // [units]
  stat_t* partials;  // [units.partials / pieces, units, pieces]; null: a block sees all of its units
  Axis units;
  int64_t pieces;  // of a matrix row that is of one unit
};
template <typename stat_t>
struct BiasSums<stat_t, UnitsAre::without_bias> {
  static constexpr UnitsAre kUnitsAre = UnitsAre::without_bias;
};

// What a thread of the backward has of them: a base class, which takes no room without a bias.
template <typename stat_t, int elements, typename Sums>
struct ThreadSums {
  const Sums& to;
  unsigned char* shared;
  stat_t sums[elements];  // UnitsAre::columns: of its columns
  int64_t tile;           // UnitsAre::rows

  JUMPSTART_DEVICE ThreadSums(const Sums& to, unsigned char* shared) : to(to), shared(shared) {}
};
template <typename stat_t, int elements>
struct ThreadSums<stat_t, elements, BiasSums<stat_t, UnitsAre::without_bias>> {
  JUMPSTART_DEVICE ThreadSums(const BiasSums<stat_t, UnitsAre::without_bias>&, unsigned char*) {}
};

// Sums over the lanes of a row.
template <int count, typename stat_t>
JUMPSTART_DEVICE void sum_lanes(stat_t (&sums)[count], int lanes) {
  for (int offset = 1; offset < lanes; offset *= 2) {
#pragma unroll
    for (int i = 0; i < count; ++i) sums[i] += __shfl_xor_sync(kWholeWarp, sums[i], offset);
  }
}

// From the sums that each thread has of its columns to those of its warp, in shared memory.
template <int elements, typename stat_t>
JUMPSTART_DEVICE void share_sums(stat_t (&sums)[elements], int lane, int lanes, unsigned char* shared) {
  constexpr int kWidth = kWarpSize * elements;         // columns of the widest tile
  auto* of_warps = reinterpret_cast<stat_t*>(shared);  // [kWarps, kWidth]
  const auto thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int e = 0; e < elements; ++e) {
    for (int offset = lanes; offset < kWarpSize; offset *= 2) {
      sums[e] += __shfl_xor_sync(kWholeWarp, sums[e], offset);
    }
    if (thread % kWarpSize < lanes) of_warps[thread / kWarpSize * kWidth + lane * elements + e] = sums[e];
  }
}
// From there to those of the block.
template <int elements, typename stat_t>
JUMPSTART_DEVICE stat_t sum_warps(const unsigned char* shared, int column) {
  const auto* of_warps = reinterpret_cast<const stat_t*>(shared);
  stat_t sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += of_warps[w * kWarpSize * elements + column];
  return sum;
}

// Adds up the partial sums of each unit, and the gradients of its own extrema, in a fixed order. A launch of
// its own, as in the forward: the last block of a single launch would need a counter that somebody clears.
template <typename scalar_t, typename Activation, typename Sums>
__global__ void __launch_bounds__(kThreads)
    jumpstart_activation_bias_backward_kernel(const __grid_constant__ Backward<scalar_t> b,
                                              const __grid_constant__ Activation activation,
                                              const __grid_constant__ Sums sums) {
  using stat_t = stat_of<scalar_t>;
  __shared__ double found[kThreads];  // [threads of a unit, units]: of many partial sums, few bits get lost
  __shared__ stat_t grad_sums[kLayerSums];
  b.statistics.load_grad_sums(grad_sums);
  const Axis& axis = sums.units;
  const int units = axis.items_per_block, threads = kThreads / units;  // per unit
  const auto thread = static_cast<int>(threadIdx.x);
  // Neighboring threads read neighboring partial sums.
  const bool across = sums.pieces == 1;
  const int unit_in_block = across ? thread % units : thread / threads;
  const int first = across ? thread / units : thread % threads;
  const int64_t first_unit = static_cast<int64_t>(blockIdx.x) * units, unit = first_unit + unit_in_block;
  double sum = 0;
  if (unit < axis.items) {
#pragma unroll 4
    for (int64_t i = first; i < axis.partials; i += threads) {
      const int64_t group = across ? i : i / sums.pieces, piece = i - group * sums.pieces;
      sum += sums.partials[(group * axis.items + unit) * sums.pieces + piece];
    }
  }
  found[first * units + unit_in_block] = sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half * units) found[thread] += found[thread + half * units];
  }
  __syncthreads();
  if (thread >= units || first_unit + thread >= axis.items) return;
  const ExtremaGradients<scalar_t, Activation> gradients(b, activation, grad_sums);
  double total = found[thread];
  if (gradients.any()) total += gradients.of_unit(first_unit + thread);
  sums.sums[first_unit + thread] = static_cast<stat_t>(total);
}

}  // namespace cuda
}  // namespace jumpstart
