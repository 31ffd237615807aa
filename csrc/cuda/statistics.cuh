// What a forward takes, and what its kernels share: which places matter, slack, sums over a block.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/extrema.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "layout.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

// Blocks of a streaming kernel on a multiprocessor; as many as leave all that a thread keeps in registers.
// Before sm_90 pairs of bfloat16 are compared one by one, which takes more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksAtOnce = 2;
#else
constexpr int kBlocksAtOnce = 3;
#endif

// What is read and written element by element.
template <typename scalar_t>
struct ElementwiseForward {
  const scalar_t* x;
  scalar_t* output;  // null: statistics alone. May be x: whoever reads an element writes it
  uint8_t* mask;     // [matrix_rows, mask_columns]
};

// What is returned of units and points.
template <typename stat_t>
struct StatisticsForward {
  stat_t* slack_sums;  // [2, kSlackSums]
  stat_t* extrema;     // [2, count]
  int64_t* indices;    // [2, count]
  int64_t count;       // units and points
  stat_t margin;
  bool all_indices;

  // Whether the places of partial extrema matter: where there is slack, and so may be a gradient. A unit or
  // point that has slack has it in all of its parts. `margin_key` is the margin's, by which keys are
  // compared.
  JUMPSTART_DEVICE bool has_slack(key_of<stat_t> margin_key, const Extrema<stat_t>& found) const {
    return all_indices || found.max < margin_key || found.min < margin_key ||
           found.max == largest_key<stat_t>();
  }

  // Stores extremum `k`, at the places that `max_index` and `min_index` tell, and adds its slack to the sums.
  template <typename MaxIndex, typename MinIndex>
  JUMPSTART_DEVICE void store(int64_t k, stat_t largest, stat_t smallest, const MaxIndex& max_index,
                              const MinIndex& min_index, stat_t* sums) const {
    const Slack<stat_t> slack = slack_of(largest, smallest, margin);
    extrema[k] = largest;
    extrema[count + k] = smallest;
    indices[k] = all_indices || slack.positive != 0 ? max_index() : -1;
    indices[count + k] = all_indices || slack.negative != 0 ? min_index() : -1;
    add_slack(slack, sums);
  }
};

// What the streaming kernel leaves for the merge.
template <typename scalar_t>
struct Workspace {
  Partial<scalar_t>*column_partials, *row_partials, *segment_partials;
  stat_of<scalar_t>* block_sums;  // [merge blocks, kSlackSums]
  int32_t* counter;               // set to zero for the merge
};

template <typename scalar_t>
struct Forward {
  ElementwiseForward<scalar_t> elementwise;
  StatisticsForward<stat_of<scalar_t>> statistics;
  Workspace<scalar_t> workspace;
  ForwardPlan plan;
  Layout layout;
};

// An extremum on its way, with its place in the unit's or point's logical order.
template <typename stat_t>
struct Candidate {
  key_of<stat_t> key;
  int64_t place;

  JUMPSTART_DEVICE void take(const Candidate& other) {
    take_first_largest(key, place, other.key, other.place);
  }
};

// The first largest of a block's candidates, for its first thread.
template <typename stat_t>
JUMPSTART_DEVICE void reduce_block(Candidate<stat_t>& max, Candidate<stat_t>& min, unsigned char* shared) {
  auto* found = reinterpret_cast<Candidate<stat_t>*>(shared);  // [2, kWarps]
  const auto thread = static_cast<int>(threadIdx.x);
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    max.take({__shfl_xor_sync(kWholeWarp, max.key, offset), __shfl_xor_sync(kWholeWarp, max.place, offset)});
    min.take({__shfl_xor_sync(kWholeWarp, min.key, offset), __shfl_xor_sync(kWholeWarp, min.place, offset)});
  }
  if (thread % kWarpSize == 0) {
    found[thread / kWarpSize] = max;
    found[kWarps + thread / kWarpSize] = min;
  }
  __syncthreads();
  if (thread == 0) {
    for (int w = 1; w < kWarps; ++w) {
      max.take(found[w]);
      min.take(found[kWarps + w]);
    }
  }
  __syncthreads();
}

// Sums over a block, in a fixed order: that of sums[i] for thread i.
template <int warps, int count, typename stat_t>
JUMPSTART_DEVICE stat_t sum_block(stat_t (&sums)[count], unsigned char* shared) {
  auto* warp_sums = reinterpret_cast<stat_t*>(shared);  // [warps, count]
  const auto thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < count; ++i) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      sums[i] += __shfl_xor_sync(kWholeWarp, sums[i], offset);
    }
    if (thread % kWarpSize == 0) warp_sums[thread / kWarpSize * count + i] = sums[i];
  }
  __syncthreads();
  stat_t sum = 0;
  if (thread < count) {
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += warp_sums[w * count + thread];
  }
  return sum;
}

}  // namespace cuda
}  // namespace jumpstart
