// The forward if each column of the matrix has extrema: units that are innermost in memory (2-D,
// channels_last, units last), or positions of planes that are points.

#pragma once

#include <cstdint>

#include "cuda/activate.cuh"
#include "cuda/bias.cuh"
#include "cuda/device.cuh"
#include "cuda/linked.cuh"
#include "cuda/merge.cuh"
#include "cuda/satisfied.cuh"
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
    satisfied_ = false;
    const int32_t full = rows_ / (kDepth * height_) * kDepth;  // rows of a thread, in tiles of full depth
    int32_t place = 0, end = is_limited() && full > kShareAt ? kShareAt : full;
    while (true) {
      for (; place < end; place += kDepth) step<true>(place);
      if (end == full) break;
      share_columns();
      end = full;
    }
    if (place * height_ < rows_) step<false>(place);
    end_region(region_of(work));  // recomputed: saves registers in the loop
  }

 private:
  static constexpr bool kBiased = Bias::kUnitsAre != UnitsAre::without_bias;
  static constexpr int kWidth = kWarpSize * elements;  // columns of the widest tile
  static constexpr uint32_t kNaN = 1 << 16;            // beside the bits of Reach
  static constexpr int kShareAt = 2 * kDepth;  // rows of a thread: the warps have 64 of a wide tile's columns

  JUMPSTART_DEVICE int64_t region_of(int64_t work) const { return t_.tiles == 1 ? work : work / t_.tiles; }
  JUMPSTART_DEVICE int64_t first_column() const { return static_cast<int64_t>(tile_) * t_.tile_columns; }
  JUMPSTART_DEVICE int64_t column() const { return first_column() + lane_ * elements; }  // of this thread

  // Whether extrema need not be followed beyond the margin.
  JUMPSTART_DEVICE bool is_limited() const { return f_.statistics.kind == kLimited; }
  JUMPSTART_DEVICE Reach<V> reach() const { return Reach<V>(f_.statistics.margin); }

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
    }
    const bool nan = is_limited() && may_hold_nan<V>(x);
    satisfied_ &= !nan;
    if (active && !satisfied_) columns_.add(x, place);
    if (f_.plan.by_row) reduce_rows<full>(x, row, active, is_limited() && are_satisfied(x, nan));
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
      if (active && lane_ * elements % 8 == 0) {
        uint8_t* mask = f_.elementwise.mask + (begin_ + row) * t_.mask_columns + column() / 8;
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          if (full || row + d * height_ < rows_) {
            mask[d * height_ * t_.mask_columns] = static_cast<uint8_t>(bits >> 8 * d);
          }
        }
      }
    }
  }

  // Whether each row of a step has reached the margin within this tile, in all of the warp.
  JUMPSTART_DEVICE bool are_satisfied(const Value (&x)[kDepth][V::kPacks], bool nan) const {
    if (t_.lanes < kDepth) return false;  // too narrow to be worth it
    Value high[kDepth], low[kDepth];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      high[d] = low[d] = x[d][0];
#pragma unroll
      for (int p = 1; p < V::kPacks; ++p) {
        high[d] = P::max(high[d], x[d][p]);
        low[d] = P::min(low[d], x[d][p]);
      }
    }
    const uint32_t bits = group_or(reach().template bits<kDepth>(high, low) | (nan ? kNaN : 0), t_.lanes);
    return __all_sync(kWholeWarp, Reach<V>::template all_packs<kDepth>(bits) && !(bits & kNaN));
  }

  // Extrema of the rows of a step within this tile.
  template <bool full>
  JUMPSTART_DEVICE void reduce_rows(const Value (&x)[kDepth][V::kPacks], int32_t row, bool active,
                                    bool satisfied) {
    if (satisfied) {  // a lane for each row
      const int32_t at = row + lane_ * height_;
      if (lane_ < kDepth && (full || at < rows_)) store_row(at, satisfied_extrema<stat_t>());
      return;
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int32_t at = row + d * height_;
      const bool inside = active && (full || at < rows_);
      const Extrema<stat_t> found = reduce_row(x[d], inside);
      if (inside && lane_ == 0) store_row(at, found);
    }
  }
  JUMPSTART_DEVICE void store_row(int32_t row, const Extrema<stat_t>& found) {
    f_.workspace.row_partials[(begin_ + row) * t_.tiles + tile_] = Partial<scalar_t>::close(found);
  }
  JUMPSTART_DEVICE Extrema<stat_t> reduce_row(const Value (&x)[V::kPacks], bool inside) const {
    Extrema<stat_t> found = reduce_values<V>(x, x, inside, t_.lanes);
    if (__any_sync(kWholeWarp, inside && f_.statistics.has_slack(order_key(f_.statistics.margin), found))) {
      // The column in the tile.
      const auto column = [this](int p, int i) { return lane_ * elements + p * P::kValues + i; };
      found.max_at = first_place<V>(x, key_value<stat_t>(found.max), inside, t_.lanes, column);
      found.min_at = first_place<V>(x, -key_value<stat_t>(found.min), inside, t_.lanes, column);
    }
    return found;
  }

  // Asks of all rows that the block has seen whether they satisfy the columns of this warp.
  JUMPSTART_DEVICE void share_columns() {
    auto* shared = reinterpret_cast<uint32_t*>(max_keys_);  // [kWarps, kWarpSize]
    const auto thread = static_cast<int>(threadIdx.x);
    uint32_t bits = reach().template bits<V::kPacks>(columns_.max, columns_.min);
#pragma unroll
    for (int p = 0; p < V::kPacks; ++p) bits |= P::any(P::nan(columns_.max[p])) ? kNaN : 0;
    for (int offset = t_.lanes; offset < kWarpSize; offset *= 2) {
      bits |= __shfl_xor_sync(kWholeWarp, bits, offset);
    }
    shared[thread] = bits;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kWarps; ++w) bits |= shared[w * kWarpSize + thread % kWarpSize];
    const bool all = Reach<V>::template all_values<V::kPacks>(bits) && !(bits & kNaN);
    satisfied_ = __all_sync(kWholeWarp, !inside_ || all);
  }

  // The extrema of the region's columns, and of its segment.
  JUMPSTART_DEVICE void end_region(int64_t region) {
    auto found = satisfied_extrema<stat_t>();
    const bool satisfied = is_limited() && __syncthreads_and(satisfied_);
    if (!satisfied) found = reduce_columns();
    if (has_column()) {
      f_.workspace.column_partials[region * t_.columns + own_column()] = Partial<scalar_t>::close(found);
    }
    if (!f_.plan.by_row) reduce_segment(found, region, satisfied);
  }

  // At the end of a region a thread has one column of the tile.
  JUMPSTART_DEVICE int64_t own_column() const { return first_column() + threadIdx.x; }
  JUMPSTART_DEVICE bool has_column() const {
    return static_cast<int>(threadIdx.x) < t_.tile_columns && own_column() < t_.columns;
  }

  // From the columns of each thread to those of the block.
  JUMPSTART_DEVICE Extrema<stat_t> reduce_columns() {
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
    Extrema<stat_t> found{no_key<stat_t>(), no_key<stat_t>(), 0, 0};
    if (has_column()) {
      found = {max_keys_[thread], min_keys_[thread], max_rows_[thread], min_rows_[thread]};
      for (int w = 1; w < kWarps; ++w) {
        const int slot = w * kWidth + thread;
        take_first_largest(found.max, found.max_at, max_keys_[slot], max_rows_[slot]);
        take_first_largest(found.min, found.min_at, min_keys_[slot], min_rows_[slot]);
      }
    }
    __syncthreads();
    return found;
  }

  // The extrema of a segment are the extrema of its columns' extrema.
  JUMPSTART_DEVICE void reduce_segment(const Extrema<stat_t>& found, int64_t region, bool satisfied) {
    auto* partial = f_.workspace.segment_partials + region * t_.tiles + tile_;
    if (satisfied) {
      if (threadIdx.x == 0) *partial = Partial<scalar_t>::close(found);
      return;
    }
    const int64_t column = own_column();
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
      *partial =
          Partial<scalar_t>::close({max.key, min.key, column_in_tile(max.place), column_in_tile(min.place)});
    }
  }

  const Forward<scalar_t>& f_;
  const Activation& activation_;
  const Tiling& t_;
  const int lane_, row_lane_, height_;  // lane in a row, row in a tile, rows that the block loads at once
  key_t *max_keys_, *min_keys_;         // [kWarps, kWidth]
  int32_t *max_rows_, *min_rows_;       // [kWarps, kWidth]
  int32_t tile_;
  int64_t begin_;  // first row of the region
  int32_t rows_;   // of the region
  bool inside_;
  bool satisfied_;  // all columns of this warp, and this thread has seen no NaN
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
  if (!f.plan.in_cluster) return end_of_forward(f);
  static_assert(kRowsBytes >= kMergeBytes, "the merge uses the same memory");
  merge_in_cluster(f, shared);
}

}  // namespace cuda
}  // namespace jumpstart
