// The forward if each column of the matrix has extrema: units that are innermost in memory (2-D,
// channels_last, units last), or positions of planes that are points.

#pragma once

#include <cstdint>

#include "cuda/activate.cuh"
#include "cuda/bias.cuh"
#include "cuda/device.cuh"
#include "cuda/linked.cuh"
#include "cuda/merge.cuh"
#include "cuda/statistics.cuh"

namespace jumpstart {
namespace cuda {

// Shared memory, used by one stage of the kernel after the other.
constexpr int kRowsBytes = 2 * kWarps * 256 * 8;

template <typename scalar_t, int elements, typename Activation, typename Bias>
class Rows : RowsBias<Vector<scalar_t, elements>, Bias> {
  using V = Vector<scalar_t, elements>;
  using P = typename V::P;
  using Value = typename V::Value;
  using stat_t = typename V::stat_t;
  using key_t = key_of<stat_t>;

 public:
  JUMPSTART_DEVICE Rows(const Forward<scalar_t>& f, const Activation& activation, const Bias& bias,
                        unsigned char* shared, unsigned char* of_bias)
      : RowsBias<Vector<scalar_t, elements>, Bias>(bias, of_bias),
        f_(f),
        activation_(activation),
        t_(f.plan.tiling),
        lane_(static_cast<int>(threadIdx.x) % t_.lanes),
        row_lane_(static_cast<int>(threadIdx.x) / t_.lanes),
        height_(kThreads / t_.lanes),
        margin_key_(order_key(f.statistics.margin)),
        max_keys_(reinterpret_cast<key_t*>(shared)),
        min_keys_(max_keys_ + kWarps * kWidth),
        max_rows_(reinterpret_cast<int32_t*>(min_keys_ + kWarps * kWidth)),
        min_rows_(max_rows_ + kWarps * kWidth) {}

  JUMPSTART_DEVICE void run(int64_t work) {
    const int64_t region = region_of(work);
    tile_ = static_cast<int32_t>(work - region * t_.tiles);
    inside_ = column() < t_.columns;
    const int64_t segment = region / t_.regions, first = (region - segment * t_.regions) * t_.region_rows;
    const int64_t left = t_.segment_rows - first;
    begin_ = segment * t_.segment_rows + first;
    rows_ = static_cast<int32_t>(left < t_.region_rows ? left : t_.region_rows);
    if constexpr (kBiased) this->begin(inside_, column(), first);
    columns_.clear();
    int32_t place = 0;
    for (; (place + kDepth) * height_ <= rows_; place += kDepth) step<true>(place);
    if (place * height_ < rows_) step<false>(place);
    reduce_columns(region_of(work));  // recomputed: saves registers in the loop
  }

 private:
  static constexpr bool kBiased = Bias::kUnitsAre != UnitsAre::without_bias;
  static constexpr int kWidth = kWarpSize * elements;  // columns of the widest tile

  JUMPSTART_DEVICE int64_t region_of(int64_t work) const { return t_.tiles == 1 ? work : work / t_.tiles; }
  JUMPSTART_DEVICE int64_t first_column() const { return static_cast<int64_t>(tile_) * t_.tile_columns; }
  JUMPSTART_DEVICE int64_t column() const { return first_column() + lane_ * elements; }  // of this thread

  // Rows place .. place + kDepth of this thread, `height_` rows apart.
  template <bool full>
  JUMPSTART_DEVICE void step(int32_t place) {
    const int32_t row = place * height_ + row_lane_;  // in the region
    const bool active = inside_ && (full || row < rows_);
    const int64_t offset = (begin_ + row) * t_.columns + column();
    const int64_t stride = height_ * t_.columns;
    Value x[kDepth][V::kPacks] = {};
    if (active) {
      V::load(f_.elementwise.x + offset, x[0]);
#pragma unroll
      for (int d = 1; d < kDepth; ++d) {
        if (full || row + d * height_ < rows_) {
          V::load(f_.elementwise.x + offset + d * stride, x[d]);
        } else {  // repeat the first: changes no extremum and no first place
#pragma unroll
          for (int p = 0; p < V::kPacks; ++p) x[d][p] = x[0][p];
        }
      }
      if constexpr (kBiased) {
        this->add(x, [&](int d) { return full || row + d * height_ < rows_ ? row + d * height_ : row; });
      }
      columns_.add(x, place);
    }
    if (f_.plan.by_row) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const int32_t at = row + d * height_;
        reduce_row(x[d], at, active && (full || at < rows_));
      }
    }
    if (!f_.elementwise.output) return;
    if constexpr (is_linked<Activation>) {
      const auto inside = [&](int d) { return active && (full || row + d * height_ < rows_); };
      store_linked<V>(activation_, x, f_.elementwise, t_.mask_columns, {begin_ + row, column(), height_, 0},
                      inside, lane_, t_.lanes);
    } else {
      uint32_t bits = 0;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        const uint32_t own = activate<V>(activation_, x[d]);
        if (!active || !(full || row + d * height_ < rows_)) continue;
        bits |= own << 8 * d;
        V::store(f_.elementwise.output + offset + d * stride, x[d]);
      }
      bits = join_bits<V>(bits, lane_, t_.lanes);
      const int64_t byte = column() / 8;
      if (active && lane_ * elements % 8 == 0) {
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          const int32_t at = row + d * height_;
          if (full || at < rows_) {
            f_.elementwise.mask[(begin_ + at) * t_.mask_columns + byte] = static_cast<uint8_t>(bits >> 8 * d);
          }
        }
      }
    }
  }

  // Extrema of a row within this tile.
  JUMPSTART_DEVICE void reduce_row(const Value (&x)[V::kPacks], int32_t row, bool active) {
    Extrema<stat_t> found = reduce_values<V>(x, x, active, t_.lanes);
    if (__any_sync(kWholeWarp, active && f_.statistics.has_slack(margin_key_, found))) {
      // The column in the tile.
      const auto column = [this](int p, int i) { return lane_ * elements + p * P::kValues + i; };
      found.max_at = first_place<V>(x, key_value<stat_t>(found.max), active, t_.lanes, column);
      found.min_at = first_place<V>(x, -key_value<stat_t>(found.min), active, t_.lanes, column);
    }
    if (active && lane_ == 0) {
      f_.workspace.row_partials[(begin_ + row) * t_.tiles + tile_] = Partial<scalar_t>::close(found);
    }
  }

  // From the columns of each thread to those of the block.
  JUMPSTART_DEVICE void reduce_columns(int64_t region) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize,
              warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
    for (int e = 0; e < elements; ++e) {
      const int p = e / P::kValues, i = e % P::kValues;
      key_t max = order_key(P::get(columns_.max[p], i)), min = order_key(-P::get(columns_.min[p], i));
      int32_t max_row = P::get_place(columns_.max_at[p], i) * height_ + row_lane_;
      int32_t min_row = P::get_place(columns_.min_at[p], i) * height_ + row_lane_;
      for (int offset = t_.lanes; offset < kWarpSize; offset *= 2) {
        take_first_largest(max, max_row, __shfl_xor_sync(kWholeWarp, max, offset),
                           __shfl_xor_sync(kWholeWarp, max_row, offset));
        take_first_largest(min, min_row, __shfl_xor_sync(kWholeWarp, min, offset),
                           __shfl_xor_sync(kWholeWarp, min_row, offset));
      }
      if (lane < t_.lanes) {
        const int slot = warp * kWidth + lane * elements + e;
        max_keys_[slot] = max;
        min_keys_[slot] = min;
        max_rows_[slot] = max_row;
        min_rows_[slot] = min_row;
      }
    }
    __syncthreads();
    const auto thread = static_cast<int>(threadIdx.x);
    const int64_t column = first_column() + thread;
    const bool mine = thread < t_.tile_columns && column < t_.columns;
    Extrema<stat_t> found{no_key<stat_t>(), no_key<stat_t>(), 0, 0};
    if (mine) {
      found = {max_keys_[thread], min_keys_[thread], max_rows_[thread], min_rows_[thread]};
      for (int w = 1; w < kWarps; ++w) {
        const int slot = w * kWidth + thread;
        take_first_largest(found.max, found.max_at, max_keys_[slot], max_rows_[slot]);
        take_first_largest(found.min, found.min_at, min_keys_[slot], min_rows_[slot]);
      }
      f_.workspace.column_partials[region * t_.columns + column] = Partial<scalar_t>::close(found);
    }
    __syncthreads();
    if (!f_.plan.by_row) reduce_segment(found, region, column);
  }

  // The extrema of a segment are the extrema of its columns' extrema.
  JUMPSTART_DEVICE void reduce_segment(const Extrema<stat_t>& found, int64_t region, int64_t column) {
    const bool columns_first = f_.plan.merge.points.columns_first;
    const int64_t row_step = columns_first ? 1 : t_.columns,
                  column_step = columns_first ? t_.segment_rows : 1;
    Candidate<stat_t> max{found.max, found.max_at * row_step + column * column_step};
    Candidate<stat_t> min{found.min, found.min_at * row_step + column * column_step};
    reduce_block(max, min, reinterpret_cast<unsigned char*>(max_keys_));
    if (threadIdx.x == 0) {
      const auto column_in_tile = [&](int64_t place) {
        const int64_t at = columns_first ? place / t_.segment_rows : place % t_.columns;
        return static_cast<int32_t>(at - first_column());
      };
      f_.workspace.segment_partials[region * t_.tiles + tile_] =
          Partial<scalar_t>::close({max.key, min.key, column_in_tile(max.place), column_in_tile(min.place)});
    }
  }

  const Forward<scalar_t>& f_;
  const Activation& activation_;
  const Tiling& t_;
  const int lane_, row_lane_, height_;  // lane in a row, row in a tile, rows that the block loads at once
  const key_t margin_key_;
  key_t *max_keys_, *min_keys_;    // [kWarps, kWidth]
  int32_t *max_rows_, *min_rows_;  // [kWarps, kWidth]
  int32_t tile_;
  int64_t begin_;  // first row of the region
  int32_t rows_;   // of the region
  bool inside_;
  Columns<V, kDepth> columns_;
};

template <typename scalar_t, int elements, typename Activation, typename Bias>
__global__ void __launch_bounds__(kThreads, kBlocksOf<Activation>)
    jumpstart_activation_forward_rows_kernel(const __grid_constant__ Forward<scalar_t> f,
                                             const __grid_constant__ Activation activation,
                                             const __grid_constant__ Bias bias) {
  alignas(16) __shared__ unsigned char shared[kRowsBytes];
  unsigned char* of_bias = nullptr;
  if constexpr (Bias::kUnitsAre == UnitsAre::columns) {
    alignas(16) __shared__ unsigned char memory[RowsBias<Vector<scalar_t, elements>, Bias>::kBytes];
    of_bias = memory;
  }
  Rows<scalar_t, elements, Activation, Bias> rows(f, activation, bias, shared, of_bias);
  for (int64_t work = blockIdx.x; work < f.plan.tiling.work(); work += gridDim.x) rows.run(work);
  end_of_forward(f);
}

}  // namespace cuda
}  // namespace jumpstart
