// Arguments of the forward's kernels, and what the kernels share.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/extrema.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "layout.h"
#include "options.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

// Resident blocks of a streaming kernel per multiprocessor: the most that spill no registers. Before sm_90,
// bfloat16 pairs are compared one by one, which takes more registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksAtOnce = 2;
#else
constexpr int kBlocksAtOnce = 3;
#endif

// Elementwise input and outputs.
template <typename scalar_t>
struct ElementwiseForward {
  const scalar_t* x;
  scalar_t* output;  // null: statistics alone. May be x: each element is read and written by one thread
  uint8_t* mask;     // [matrix_rows, mask_columns]
};

// Statistics of units and points.
template <typename stat_t>
struct StatisticsForward {
  stat_t* slack_sums;  // [2, kSlackSums]
  stat_t* extrema;     // [2, count]
  int64_t* indices;    // [2, count]
  int64_t count;       // units and points
  stat_t margin;
  ExtremaKind kind;

  // Whether the places of partial extrema are needed: only slack has a gradient. If a unit or point has
  // slack, so have all its parts. `margin_key` is the key of the margin.
  JUMPSTART_DEVICE bool has_slack(key_of<stat_t> margin_key, const Extrema<stat_t>& found) const {
    return kind == kIndexed || found.max < margin_key || found.min < margin_key ||
           found.max == largest_key<stat_t>();
  }

  // Stores extrema `k`, with the indices that max_index() and min_index() compute, and adds their slack to
  // `sums`.
  template <typename MaxIndex, typename MinIndex>
  JUMPSTART_DEVICE void store(int64_t k, stat_t largest, stat_t smallest, const MaxIndex& max_index,
                              const MinIndex& min_index, stat_t* sums) const {
    const Slack<stat_t> slack = slack_of(largest, smallest, margin);
    extrema[k] = kind == kLimited ? limit_maximum(largest, margin) : largest;
    extrema[count + k] = kind == kLimited ? limit_minimum(smallest, margin) : smallest;
    indices[k] = kind == kIndexed || slack.positive != 0 ? max_index() : -1;
    indices[count + k] = kind == kIndexed || slack.negative != 0 ? min_index() : -1;
    add_slack(slack, sums);
  }
};

// What the streaming kernel leaves for the merge.
template <typename scalar_t>
struct Workspace {
  Partial<scalar_t>*column_partials, *row_partials, *segment_partials;
  stat_of<scalar_t>* block_sums;  // [merge blocks, kSlackSums]
  int32_t* counter;               // 0 when the merge starts
};

template <typename scalar_t>
struct Forward {
  ElementwiseForward<scalar_t> elementwise;
  StatisticsForward<stat_of<scalar_t>> statistics;
  Workspace<scalar_t> workspace;
  ForwardPlan plan;
  Layout layout;
};

// A candidate for an extremum, with its place in the logical order of the unit or point.
template <typename stat_t>
struct Candidate {
  key_of<stat_t> key;
  int64_t place;

  JUMPSTART_DEVICE void take(const Candidate& other) {
    take_first_largest(key, place, other.key, other.place);
  }
};

// Reduces the candidates of a block into its first thread.
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

// Sums over each of `parts` of a block in a fixed order; thread i returns the sum of sums[i % count] over
// part i / count.
template <int warps, int parts = 1, int count, typename stat_t>
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
  if (thread < parts * count) {
    constexpr int kOfPart = warps / parts;
    const int part = thread / count, i = thread % count;
#pragma unroll
    for (int w = 0; w < kOfPart; ++w) sum += warp_sums[(part * kOfPart + w) * count + i];
  }
  return sum;
}

}  // namespace cuda
}  // namespace jumpstart
