// The backward: the gradient through the activation and that of the extrema, in one pass.

#pragma once

#include <cstdint>

#include "cuda/bias_sums.cuh"
#include "cuda/device.cuh"
#include "cuda/extrema.cuh"
#include "cuda/extrema_gradients.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"

namespace jumpstart {
namespace cuda {

// A bias takes the sum of its unit's gradients, which are added up as they pass, before they are rounded.
template <typename scalar_t, int elements, bool extrema, typename Activation, typename Sums>
class Gradient : ThreadSums<stat_of<scalar_t>, elements, Sums> {
  using V = Vector<scalar_t, elements>;
  using P = typename V::P;
  using Value = typename V::Value;
  using stat_t = typename V::stat_t;

 public:
  // `grad_sums`: of StatisticsBackward::load_grad_sums; the block need not have met since.
  JUMPSTART_DEVICE Gradient(const Backward<scalar_t>& b, const Activation& activation, const Sums& sums,
                            unsigned char* shared, const stat_t* grad_sums)
      : ThreadSums<stat_of<scalar_t>, elements, Sums>(sums, shared),
        b_(b),
        e_(b.elementwise),
        activation_(activation),
        grad_sums_(grad_sums),
        t_(b.plan.tiling),
        shift_(shift_of(t_.lanes)),
        lane_(static_cast<int>(threadIdx.x) & (t_.lanes - 1)),
        row_lane_(static_cast<int>(threadIdx.x) >> shift_),
        height_(kThreads >> shift_) {}

  JUMPSTART_DEVICE void run(int64_t work) {
    const int64_t tile = work % t_.tiles;
    begin_ = work / t_.tiles * t_.region_rows;
    column_ = tile * t_.tile_columns + lane_ * elements;
    if constexpr (kUnitsAre == UnitsAre::columns) {
#pragma unroll
      for (int e = 0; e < elements; ++e) this->sums[e] = 0;
    }
    const int64_t left = t_.rows - begin_;
    rows_ = static_cast<int32_t>(left < t_.region_rows ? left : t_.region_rows);
    if constexpr (kUnitsAre == UnitsAre::rows) {  // all threads take part, for the shuffles of their warp
      this->tile = tile;
      int32_t row = 0;
      for (; row + kDepth * height_ <= rows_; row += kDepth * height_) step<true>(row + row_lane_);
      if (row < rows_) step<false>(row + row_lane_);
    } else if (column_ < t_.columns) {
      int32_t row = row_lane_;
      for (; row + (kDepth - 1) * height_ < rows_; row += kDepth * height_) step<true>(row);
      if (row < rows_) step<false>(row);
    }
    if constexpr (extrema) {
      // An element is streamed before extrema are added to it, and their gradients are there.
      __syncthreads();
      const ExtremaGradients<scalar_t, Activation> gradients(b_, activation_, grad_sums_);
      const bool any = gradients.any();
      bool found = false;
      if (any) {
        const int64_t first = tile * t_.tile_columns, last = first + t_.tile_columns;
        found = gradients.add(begin_, begin_ + rows_, first, last < t_.columns ? last : t_.columns);
      }
      if constexpr (kUnitsAre != UnitsAre::without_bias) {
        if (any && __syncthreads_or(found)) add_points(gradients);
      }
      if constexpr (kUnitsAre == UnitsAre::columns) store_columns(work / t_.tiles, tile, any, gradients);
    }
  }

 private:
  static constexpr UnitsAre kUnitsAre = Sums::kUnitsAre;

  // Lanes are a power of two: divisions by them take registers that the loop needs.
  JUMPSTART_DEVICE static int shift_of(int32_t lanes) { return __ffs(lanes) - 1; }

  template <bool full>
  JUMPSTART_DEVICE void step(int32_t row) {
    const int64_t offset = (begin_ + row) * t_.columns + column_, stride = height_ * t_.columns;
    Value grad[kDepth][V::kPacks] = {};
    uint32_t bits[kDepth] = {};
    if (e_.grad_output) {
      const uint8_t* mask = e_.mask + (begin_ + row) * t_.mask_columns + column_ / 8;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (!is_inside<full>(row, d)) continue;
        V::load(e_.grad_output + offset + d * stride, grad[d]);
        bits[d] = mask[d * height_ * t_.mask_columns];
      }
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (!is_inside<full>(row, d)) continue;
      if constexpr (elements < 8) bits[d] >>= column_ & 7;
#pragma unroll
      for (int p = 0; p < V::kPacks; ++p) {
        grad[d][p] = activation_.template gradient<P>(grad[d][p], P::from_bits(bits[d], p));
      }
      V::store(e_.grad_x + offset + d * stride, grad[d]);
      if constexpr (kUnitsAre == UnitsAre::columns) {
#pragma unroll
        for (int e = 0; e < elements; ++e) this->sums[e] += V::element(grad[d], e);
      }
    }
    if constexpr (kUnitsAre == UnitsAre::rows) {
      stat_t sums[kDepth] = {};  // of nothing outside
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
#pragma unroll
        for (int e = 0; e < elements; ++e) sums[d] += V::element(grad[d], e);
      }
      sum_lanes(sums, t_.lanes);
      if (lane_ > 0) return;
      stat_t* to = row_sum(row);
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (is_inside<full>(row, d)) to[d * height_ * t_.tiles] = sums[d];
      }
    }
  }

  template <bool full>
  JUMPSTART_DEVICE bool is_inside(int32_t row, int d) const {
    if constexpr (kUnitsAre == UnitsAre::rows) {
      if (column_ >= t_.columns) return false;
    }
    return full || row + d * height_ < rows_;
  }

  // Adds the gradients of points' extrema to the sums. Each thread asks for the elements that are its own:
  // the order of additions is then fixed.
  JUMPSTART_DEVICE void add_points(const ExtremaGradients<scalar_t, Activation>& gradients) {
    for (int32_t first = 0; first < rows_; first += height_) {
      const int32_t row = first + row_lane_;
      const bool inside = row < rows_ && column_ < t_.columns;
      if constexpr (kUnitsAre == UnitsAre::columns) {
        if (inside) gradients.template add_points<elements>(begin_ + row, column_, this->sums);
      } else {
        stat_t sum[1] = {};
        if (inside) sum[0] = gradients.template of_points<elements>(begin_ + row, column_);
        sum_lanes(sum, t_.lanes);
        if (lane_ == 0 && inside) *row_sum(row) += sum[0];
      }
    }
  }

  JUMPSTART_DEVICE stat_t* row_sum(int32_t row) const {
    return this->to.partials + (begin_ + row) * t_.tiles + this->tile;
  }

  // From the columns of each thread to those of the region. Those of the block's region before have been
  // read: all threads have met since.
  JUMPSTART_DEVICE void store_columns(int64_t region, int64_t tile, bool any,
                                      const ExtremaGradients<scalar_t, Activation>& gradients) {
    share_sums(this->sums, lane_, t_.lanes, this->shared);
    __syncthreads();
    const auto thread = static_cast<int>(threadIdx.x);
    const int64_t column = tile * t_.tile_columns + thread;
    if (thread < t_.tile_columns && column < t_.columns) {
      const stat_t sum = sum_warps<elements, stat_t>(this->shared, thread);
      if (this->to.partials) {
        this->to.partials[region * t_.columns + column] = sum;
      } else {
        this->to.sums[column] = any ? sum + gradients.of_unit(column) : sum;
      }
    }
  }

  const Backward<scalar_t>& b_;
  const ElementwiseBackward<scalar_t>& e_;
  const Activation& activation_;
  const stat_t* grad_sums_;
  const Tiling& t_;
  const int shift_, lane_, row_lane_, height_;
  int64_t begin_, column_;
  int32_t rows_;  // of the region
};

template <typename scalar_t, int elements, bool extrema, typename Activation, typename Sums>
__global__ void __launch_bounds__(kThreads, 3)
    jumpstart_activation_backward_kernel(const __grid_constant__ Backward<scalar_t> b,
                                         const __grid_constant__ Activation activation,
                                         const __grid_constant__ Sums sums) {
  using stat_t = stat_of<scalar_t>;
  const stat_t* grad_sums = nullptr;
  if constexpr (extrema) {
    __shared__ stat_t memory[kLayerSums];
    b.statistics.load_grad_sums(memory);
    grad_sums = memory;
  }
  unsigned char* shared = nullptr;
  if constexpr (Sums::kUnitsAre == UnitsAre::columns) {
    alignas(16) __shared__ unsigned char memory[kThreads * elements * sizeof(stat_t)];
    shared = memory;
  }
  Gradient<scalar_t, elements, extrema, Activation, Sums> gradient(b, activation, sums, shared, grad_sums);
  for (int64_t work = blockIdx.x; work < b.plan.tiling.work(); work += gridDim.x) gradient.run(work);
}

}  // namespace cuda
}  // namespace jumpstart
