// The second part of a forward: merges partial extrema into extrema, indices and slack sums. It is a launch
// of its own, unless the blocks of the first part are one cluster.

#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device.cuh"
#include "cuda/statistics.cuh"

namespace jumpstart {
namespace cuda {

template <typename scalar_t>
class Merge {
  using stat_t = stat_of<scalar_t>;
  using key_t = key_of<stat_t>;

 public:
  JUMPSTART_DEVICE Merge(const Forward<scalar_t>& f, unsigned char* shared) : f_(f), shared_(shared) {}

  // Merges the items of one block and sums their slack.
  JUMPSTART_DEVICE void run(int64_t block) {
    const bool units = block < f_.plan.merge.units.blocks();
    const Axis& axis = units ? f_.plan.merge.units : f_.plan.merge.points;
    const int items = axis.items_per_block, threads = kThreads / items;  // per item
    // Neighboring threads read neighboring partials.
    const bool across = axis.source == Source::columns || threads == 1;
    const auto thread = static_cast<int>(threadIdx.x);
    const int item_in_block = across ? thread % items : thread / threads;
    const int first = across ? thread / items : thread % threads;
    const int64_t item = (block - axis.first_blocks) * items + item_in_block;

    auto* found = reinterpret_cast<Candidate<stat_t>*>(shared_);  // [2, threads of an item, items]
    const auto reduce = [&](auto with_places) {
      Candidate<stat_t> max{no_key<stat_t>(), 0}, min{no_key<stat_t>(), 0};
      if (item < axis.items) {
#pragma unroll 4
        for (int64_t i = first; i < axis.partials; i += threads) {
          take<with_places.value>(axis, item, i, max, min);
        }
      }
      const int slot = first * items + item_in_block;
      found[slot] = max;
      found[kThreads + slot] = min;
      for (int half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread < half * items) {
          found[thread].take(found[thread + half * items]);
          found[kThreads + thread].take(found[kThreads + thread + half * items]);
        }
      }
      __syncthreads();
    };
    const int64_t own_item = (block - axis.first_blocks) * items + thread;
    const bool owner = thread < items && own_item < axis.items;
    // Places are computed only where an item of the block has slack.
    bool slack = f_.statistics.kind == kIndexed;
    if (!slack) {
      reduce(std::false_type{});
      const Extrema<stat_t> own{found[thread].key, found[kThreads + thread].key, 0, 0};
      slack = __syncthreads_or(owner && f_.statistics.has_slack(order_key(f_.statistics.margin), own));
    }
    if (slack) reduce(std::true_type{});
    stat_t sums[kSlackSums] = {};
    if (owner) {
      const Candidate<stat_t> largest = found[thread], smallest = found[kThreads + thread];
      f_.statistics.store(
          own_item + (units ? 0 : f_.layout.units), key_value<stat_t>(largest.key),
          -key_value<stat_t>(smallest.key), [&] { return index(axis, own_item, largest.place); },
          [&] { return index(axis, own_item, smallest.place); }, sums);
    }
    __syncthreads();
    const stat_t sum = sum_block<kWarps>(sums, shared_);
    if (thread < kSlackSums) f_.workspace.block_sums[block * kSlackSums + thread] = sum;
  }

  // Adds up the sums of all blocks, once all of them have run.
  JUMPSTART_DEVICE void sum_blocks() {
    stat_t sums[kLayerSums] = {};
#pragma unroll
    for (int points = 0; points < 2; ++points) {
      const Axis& axis = points ? f_.plan.merge.points : f_.plan.merge.units;
      for (int64_t b = axis.first_blocks + threadIdx.x; b < axis.first_blocks + axis.blocks();
           b += kThreads) {
#pragma unroll
        for (int i = 0; i < kSlackSums; ++i)
          sums[points * kSlackSums + i] += __ldcg(f_.workspace.block_sums + b * kSlackSums + i);
      }
    }
    __syncthreads();
    const stat_t sum = sum_block<kWarps>(sums, shared_);
    if (threadIdx.x < kLayerSums) f_.statistics.slack_sums[threadIdx.x] = sum;
  }

 private:
  template <bool with_places>
  JUMPSTART_DEVICE void take(const Axis& axis, int64_t item, int64_t i, Candidate<stat_t>& max,
                             Candidate<stat_t>& min) const {
    const Tiling& t = f_.plan.tiling;
    Extrema<stat_t> found;
    int64_t max_place = 0, min_place = 0;
    if (axis.source == Source::columns) {
      const int64_t group = axis.items > t.columns ? item / t.columns : 0;
      const int64_t region = group * axis.partials + i;
      found = f_.workspace.column_partials[region * t.columns + (item - group * t.columns)].open();
      if constexpr (with_places) {
        const int64_t begin = first_row(region);
        max_place = begin + found.max_at;
        min_place = begin + found.min_at;
      }
    } else if (axis.source == Source::rows) {
      const bool planes = f_.plan.kernel == ForwardKernel::planes;
      const auto pieces = planes ? f_.plan.chunks.chunks : t.tiles;
      const auto length = planes ? f_.plan.chunks.chunk_columns : t.tile_columns;
      const int64_t row_in_item = pieces == 1 ? i : i / pieces, piece = i - row_in_item * pieces;
      const int64_t row = item * axis.row_stride + row_in_item * axis.row_step;
      found = f_.workspace.row_partials[row * pieces + piece].open();
      if constexpr (with_places) {
        max_place = place(axis, row, row_in_item, piece * length + found.max_at);
        min_place = place(axis, row, row_in_item, piece * length + found.min_at);
      }
    } else {
      const int64_t region_in_item = i / t.tiles, tile = i - region_in_item * t.tiles;
      const int64_t region = item * t.regions + region_in_item;
      found = f_.workspace.segment_partials[region * t.tiles + tile].open();
      if constexpr (with_places) {  // the rows are stored with the columns that hold the extrema
        const int64_t first_column = tile * t.tile_columns, begin = region_in_item * t.region_rows;
        const int64_t max_column = first_column + found.max_at, min_column = first_column + found.min_at;
        const auto* of_columns = f_.workspace.column_partials + region * t.columns;
        const int64_t max_row = begin + of_columns[max_column].open().max_at;
        const int64_t min_row = begin + of_columns[min_column].open().min_at;
        max_place = place(axis, item * t.segment_rows + max_row, max_row, max_column);
        min_place = place(axis, item * t.segment_rows + min_row, min_row, min_column);
      }
    }
    max.take({found.max, max_place});
    min.take({found.min, min_place});
  }

  // A number that orders an element within its item.
  JUMPSTART_DEVICE int64_t place(const Axis& axis, int64_t row, int64_t row_in_item, int64_t column) const {
    return axis.columns_first ? column * f_.layout.rows + row_in_item
                              : row * f_.layout.matrix_columns() + column;
  }

  // From that number, the index in the flattened tensor.
  JUMPSTART_DEVICE int64_t index(const Axis& axis, int64_t item, int64_t place) const {
    const Layout& l = f_.layout;
    const int64_t columns = l.matrix_columns();
    if (axis.source == Source::columns) {
      const int64_t column = axis.items > columns ? item % columns : item;
      return l.channels_last ? flat(place, column) : place * columns + column;
    }
    if (axis.columns_first) return item * l.rows * columns + place;
    return l.channels_last ? flat(place / columns, place % columns) : place;
  }
  JUMPSTART_DEVICE int64_t flat(int64_t row, int64_t column) const {  // in channels_last
    const Layout& l = f_.layout;
    return (row / l.rows * l.units + column) * l.rows + row % l.rows;
  }

  // The first matrix row of a region.
  JUMPSTART_DEVICE int64_t first_row(int64_t region) const {
    const Tiling& t = f_.plan.tiling;
    const int64_t segment = t.segments == 1 ? 0 : region / t.regions;
    return segment * t.segment_rows + (region - segment * t.regions) * t.region_rows;
  }

  const Forward<scalar_t>& f_;
  unsigned char* shared_;
};

constexpr int kMergeBytes = 2 * kThreads * 16;  // of shared memory

// Ends a streaming kernel: resets the counter for the merge.
template <typename scalar_t>
JUMPSTART_DEVICE void end_of_forward(const Forward<scalar_t>& f) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *f.workspace.counter = 0;
}

// Ends a streaming kernel whose blocks are one cluster.
template <typename scalar_t>
JUMPSTART_DEVICE void merge_in_cluster(const Forward<scalar_t>& f, unsigned char* shared) {
  meet_cluster();
  Merge<scalar_t> merge(f, shared);
  for (int64_t block = blockIdx.x; block < f.plan.merge.blocks(); block += gridDim.x) {
    merge.run(block);
    __syncthreads();  // before its memory is used again
  }
  meet_cluster();
  if (blockIdx.x == 0) merge.sum_blocks();
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    jumpstart_activation_statistics_forward_kernel(const __grid_constant__ Forward<scalar_t> f) {
  alignas(16) __shared__ unsigned char shared[kMergeBytes];
  __shared__ bool last;
  Merge<scalar_t> merge(f, shared);
  merge.run(blockIdx.x);
  // The last block to finish adds up: the others have stored their sums before counting.
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(f.workspace.counter, 1) == static_cast<int32_t>(gridDim.x) - 1;
    __threadfence();
  }
  __syncthreads();
  if (last) merge.sum_blocks();
}

}  // namespace cuda
}  // namespace jumpstart
