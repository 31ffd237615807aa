// The backward of a linked activation: the gradient of x from both halves, with the slopes' gradients if they
// are asked for; then that of the extrema, in a launch of its own, which is compiled once for all kinds.

#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/bias_sums.cuh"
#include "cuda/device.cuh"
#include "cuda/extrema_gradients.cuh"
#include "cuda/linked.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"

namespace jumpstart {
namespace cuda {

constexpr int kLinkedDepth = 2;  // rows that a thread loads at once: of each two or three vectors

// What there is besides Backward, whose mask is [matrix rows, 2 * mask_columns].
template <typename scalar_t>
struct LinkedBackward {
  const scalar_t* x;  // null if the masks are enough
  Linked<stat_of<scalar_t>> linked;
};

template <typename scalar_t, int elements, typename Activation, typename Sums>
class LinkedGradient {
  using V = Vector<scalar_t, elements>;
  using Value = typename V::Value;
  using stat_t = typename V::stat_t;
  using L = LinkedValue<stat_t>;

 public:
  JUMPSTART_DEVICE LinkedGradient(const Backward<scalar_t>& b, const LinkedBackward<scalar_t>& more,
                                  const Sums& sums, unsigned char* shared)
      : b_(b),
        more_(more),
        rows_of_(more.linked.rows),
        sums_(sums),
        shared_(shared),
        t_(b.plan.tiling),
        lane_(static_cast<int>(threadIdx.x) % t_.lanes),
        row_lane_(static_cast<int>(threadIdx.x) / t_.lanes),
        height_(kThreads / t_.lanes) {}

  JUMPSTART_DEVICE void run(int64_t work) {
    const int64_t region = work / t_.tiles;
    tile_ = work - region * t_.tiles;
    begin_ = region * t_.region_rows;
    column_ = tile_ * t_.tile_columns + lane_ * elements;
    const int64_t left = t_.rows - begin_;
    rows_ = static_cast<int32_t>(left < t_.region_rows ? left : t_.region_rows);
    if (!planes() && column_ < t_.columns) slopes_.load_columns(more_.linked, column_);
    found_ = {};
    int32_t row = 0;  // all threads take part, for the shuffles of their warp
    for (; row + kLinkedDepth * height_ <= rows_; row += kLinkedDepth * height_) step<true>(row + row_lane_);
    if (row < rows_) step<false>(row + row_lane_);
    if constexpr (Sums::kUnitsAre == UnitsAre::columns) {
      store_columns(region, 0, found_.first);
      store_columns(region, 1, found_.second);
    }
  }

 private:
  // The slopes' gradients that a thread has added up: of its columns.
  struct Found {
    stat_t first[elements], second[elements];
  };
  struct Nothing {};

  // Whether units are rows of the matrix.
  JUMPSTART_DEVICE bool planes() const {
    if constexpr (Sums::kUnitsAre == UnitsAre::without_bias) return rows_of_.planes;
    return Sums::kUnitsAre == UnitsAre::rows;
  }

  template <bool full>
  JUMPSTART_DEVICE void step(int32_t row) {
    const auto inside = [&](int d) { return column_ < t_.columns && (full || row + d * height_ < rows_); };
    const VectorsAt at{begin_ + row, column_, height_, 0};
    Value first[kLinkedDepth][V::kPacks] = {}, second[kLinkedDepth][V::kPacks] = {};
    Value x[kLinkedDepth][V::kPacks] = {};
    HalfBits bits[kLinkedDepth] = {};
#pragma unroll
    for (int d = 0; d < kLinkedDepth; ++d) {
      if (!inside(d)) continue;
      const scalar_t* from = b_.elementwise.grad_output + rows_of_.first(at.row_of(d)) + column_;
      V::load(from, first[d]);
      V::load(from + rows_of_.half, second[d]);
      if constexpr (Activation::from_sign) {
        const uint8_t* mask = b_.elementwise.mask + at.row_of(d) * 2 * t_.mask_columns + column_ / 8;
        const int shift = elements < 8 ? static_cast<int>(column_ & 7) : 0;
        bits[d] = {static_cast<uint32_t>(mask[0]) >> shift,
                   static_cast<uint32_t>(mask[t_.mask_columns]) >> shift};
      } else {
        V::load(more_.x + at.row_of(d) * t_.columns + column_, x[d]);
      }
    }
    stat_t of_rows[2 * kLinkedDepth] = {};
#pragma unroll
    for (int d = 0; d < kLinkedDepth; ++d) {
      if (!inside(d)) continue;
      if (planes()) slopes_.load_plane(more_.linked, at.row_of(d));
      stat_t grad_x[elements];
#pragma unroll
      for (int e = 0; e < elements; ++e) {
        const Halves<L> grad{V::get(first[d], e), V::get(second[d], e)};
        if constexpr (Activation::from_sign) {
          grad_x[e] = Activation::template gradient<L>(
              {bits[d].first >> e & 1 ? grad.first : 0, bits[d].second >> e & 1 ? grad.second : 0});
        } else {
          grad_x[e] = Activation::template gradient<L>(grad, V::get(x[d], e), slopes_.at(e));
        }
        add_slopes(grad, V::get(x[d], e), e, of_rows[2 * d], of_rows[2 * d + 1]);
      }
      V::store_rounded(b_.elementwise.grad_x + at.row_of(d) * t_.columns + column_, grad_x);
    }
    if constexpr (Sums::kUnitsAre == UnitsAre::rows) {
      sum_lanes(of_rows, t_.lanes);
      if (lane_ > 0) return;
#pragma unroll
      for (int d = 0; d < kLinkedDepth; ++d) {
        if (!inside(d)) continue;
        // [groups of planes, 2, units, tiles]
        stat_t* to = sums_.partials + rows_of_.first_row(at.row_of(d)) * t_.tiles + tile_;
        to[0] = of_rows[2 * d];
        to[rows_of_.units * t_.tiles] = of_rows[2 * d + 1];
      }
    }
  }

  // Adds what the element `e` of a vector adds to the slopes' gradients, to those of its column or its row.
  JUMPSTART_DEVICE void add_slopes(const Halves<L>& grad, stat_t x, int e, stat_t& first, stat_t& second) {
    if constexpr (Sums::kUnitsAre != UnitsAre::without_bias) {
      const Halves<L> found = Activation::template slope_gradients<L>(grad, x);
      if constexpr (Sums::kUnitsAre == UnitsAre::columns) {
        found_.first[e] += found.first;
        found_.second[e] += found.second;
      } else {
        first += found.first;
        second += found.second;
      }
    }
  }

  // From the columns of each thread to those of the region.
  JUMPSTART_DEVICE void store_columns(int64_t region, int half, stat_t (&sums)[elements]) const {
    share_sums(sums, lane_, t_.lanes, shared_);
    __syncthreads();
    const auto thread = static_cast<int>(threadIdx.x);
    const int64_t column = tile_ * t_.tile_columns + thread;
    if (thread < t_.tile_columns && column < t_.columns) {
      stat_t* to = sums_.partials ? sums_.partials + region * 2 * t_.columns : sums_.sums;
      to[half * t_.columns + column] = sum_warps<elements, stat_t>(shared_, thread);
    }
    __syncthreads();
  }

  const Backward<scalar_t>& b_;
  const LinkedBackward<scalar_t>& more_;
  const HalfRows& rows_of_;
  const Sums& sums_;
  unsigned char* shared_;
  const Tiling& t_;
  const int lane_, row_lane_, height_;
  int64_t tile_, begin_, column_;
  int32_t rows_;  // of the region
  Slopes<stat_t, elements, Activation::has_weight> slopes_;
  std::conditional_t<Sums::kUnitsAre == UnitsAre::columns, Found, Nothing> found_;
};

template <typename scalar_t, int elements, typename Activation, typename Sums>
__global__ void __launch_bounds__(kThreads, Activation::has_weight ? 2 : 3)
    linked_activation_backward_kernel(const __grid_constant__ Backward<scalar_t> b,
                                      const __grid_constant__ LinkedBackward<scalar_t> more,
                                      const __grid_constant__ Sums sums) {
  unsigned char* shared = nullptr;
  if constexpr (Sums::kUnitsAre == UnitsAre::columns) {
    alignas(16) __shared__ unsigned char memory[kThreads * elements * sizeof(stat_of<scalar_t>)];
    shared = memory;
  }
  LinkedGradient<scalar_t, elements, Activation, Sums> gradient(b, more, sums, shared);
  for (int64_t work = blockIdx.x; work < b.plan.tiling.work(); work += gridDim.x) gradient.run(work);
}

// The gradient of a single element, before it is rounded.
template <typename scalar_t>
JUMPSTART_DEVICE stat_of<scalar_t> gradient_of_element(const ElementwiseBackward<scalar_t>& elementwise,
                                                       const Layout& layout,
                                                       const LinkedBackward<scalar_t>& more, int64_t row,
                                                       int64_t column) {
  using stat_t = stat_of<scalar_t>;
  using L = LinkedValue<stat_t>;
  const HalfRows& rows = more.linked.rows;
  const scalar_t* from = elementwise.grad_output + rows.first(row) + column;
  const Halves<L> grad{to_stat(from[0]), to_stat(from[rows.half])};
  stat_t found = 0;
  with_kind(more.linked.kind, [&](auto activation) {
    using Activation = decltype(activation);
    if constexpr (Activation::from_sign) {
      const int64_t mask_columns = layout.mask_columns();
      const uint8_t* mask = elementwise.mask + row * 2 * mask_columns + column / 8;
      const auto bit = column & 7;
      found = Activation::template gradient<L>(
          {mask[0] >> bit & 1 ? grad.first : 0, mask[mask_columns] >> bit & 1 ? grad.second : 0});
    } else {
      Slopes<stat_t, 1, Activation::has_weight> slopes;
      slopes.load(more.linked, row, column);
      const stat_t x = to_stat(more.x[row * rows.columns + column]);
      found = Activation::template gradient<L>(grad, x, slopes.at(0));
    }
  });
  return found;
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    linked_activation_extrema_backward_kernel(const __grid_constant__ Backward<scalar_t> b,
                                              const __grid_constant__ LinkedBackward<scalar_t> more) {
  __shared__ stat_of<scalar_t> grad_sums[kLayerSums];
  b.statistics.load_grad_sums(grad_sums);
  __syncthreads();
  const ExtremaGradients<scalar_t, LinkedBackward<scalar_t>> gradients(b, more, grad_sums);
  if (gradients.any()) gradients.add_all();
}

}  // namespace cuda
}  // namespace jumpstart
