// The forward of a linked activation without statistics: x is read once, both halves are written.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/linked.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "cuda/statistics.cuh"

namespace jumpstart {
namespace cuda {

template <typename scalar_t>
struct LinkedForward {
  ElementwiseForward<scalar_t> elementwise;  // output: [matrix rows in halves]; mask: null if there is none
  Linked<stat_of<scalar_t>> linked;
  Tiling tiling;
};

template <typename scalar_t, int elements, typename Activation>
class LinkedOutput {
  using V = Vector<scalar_t, elements>;

 public:
  JUMPSTART_DEVICE explicit LinkedOutput(const LinkedForward<scalar_t>& f)
      : e_(f.elementwise),
        linked_(f.linked),
        t_(f.tiling),
        lane_(static_cast<int>(threadIdx.x) % t_.lanes),
        row_lane_(static_cast<int>(threadIdx.x) / t_.lanes),
        height_(kThreads / t_.lanes) {}

  JUMPSTART_DEVICE void run(int64_t work) {
    begin_ = work / t_.tiles * t_.region_rows;
    column_ = work % t_.tiles * t_.tile_columns + lane_ * elements;
    const int64_t left = t_.rows - begin_;
    rows_ = static_cast<int32_t>(left < t_.region_rows ? left : t_.region_rows);
    if (!linked_.rows.planes && column_ < t_.columns) slopes_.load_columns(linked_, column_);
    int32_t row = 0;  // all threads take part, for the shuffles of their warp
    for (; row + kDepth * height_ <= rows_; row += kDepth * height_) step<true>(row + row_lane_);
    if (row < rows_) step<false>(row + row_lane_);
  }

 private:
  template <bool full>
  JUMPSTART_DEVICE void step(int32_t row) {
    const auto inside = [&](int d) { return column_ < t_.columns && (full || row + d * height_ < rows_); };
    const VectorsAt at{begin_ + row, column_, height_, 0};
    typename V::Value x[kDepth][V::kPacks] = {};
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (inside(d)) V::load(e_.x + at.row_of(d) * t_.columns + column_, x[d]);
    }
    HalfBits bits{};
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (!inside(d)) continue;
      if (linked_.rows.planes) slopes_.load_plane(linked_, at.row_of(d));
      scalar_t* first = e_.output + linked_.rows.first(at.row_of(d)) + column_;
      store_halves<V, Activation>(x[d], slopes_, first, first + linked_.rows.half, bits, 8 * d);
    }
    if constexpr (Activation::from_sign) {
      store_masks<V>(bits, e_.mask, t_.mask_columns, at, inside, lane_, t_.lanes);
    }
  }

  const ElementwiseForward<scalar_t>& e_;
  const Linked<stat_of<scalar_t>>& linked_;
  const Tiling& t_;
  const int lane_, row_lane_, height_;
  int64_t begin_, column_;
  int32_t rows_;  // of the region
  Slopes<stat_of<scalar_t>, elements, Activation::has_weight> slopes_;
};

template <typename scalar_t, int elements, typename Activation>
__global__ void __launch_bounds__(kThreads, 3)
    linked_activation_forward_kernel(const __grid_constant__ LinkedForward<scalar_t> f) {
  LinkedOutput<scalar_t, elements, Activation> output(f);
  for (int64_t work = blockIdx.x; work < f.tiling.work(); work += gridDim.x) output.run(work);
}

}  // namespace cuda
}  // namespace jumpstart
