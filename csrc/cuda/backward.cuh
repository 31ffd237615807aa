// The backward: the gradient through the activation and that of the extrema, in one pass.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/packs.cuh"
#include "cuda/plan.h"
#include "layout.h"
#include "slack.h"

namespace jumpstart {
namespace cuda {

// Elementwise inputs and output.
template <typename scalar_t>
struct ElementwiseBackward {
  const scalar_t* grad_output;  // null: zero
  const uint8_t* mask;          // [matrix_rows, mask_columns]
  scalar_t* grad_x;
};

// Statistics of units and points, and their gradients.
template <typename stat_t>
struct StatisticsBackward {
  const stat_t* grad_slack_sums;  // [2, kSlackSums]; null: not in the loss
  const stat_t* grad_extrema;     // [2, units + points]; null: not in the loss
  const stat_t* extrema;          // [2, units + points]
  const int64_t* indices;         // [2, units + points]
  int64_t points;
  bool position_points;
  stat_t margin;
};

template <typename scalar_t>
struct Backward {
  ElementwiseBackward<scalar_t> elementwise;
  StatisticsBackward<stat_of<scalar_t>> statistics;
  BackwardPlan plan;
  Layout layout;
};

// Adds the gradients of the extrema that lie in a tile, after the tile has been written.
template <typename scalar_t, typename Activation>
class ExtremaGradients {
  using stat_t = stat_of<scalar_t>;

 public:
  JUMPSTART_DEVICE ExtremaGradients(const Backward<scalar_t>& b, const Activation& activation)
      : e_(b.elementwise),
        s_(b.statistics),
        l_(b.layout),
        activation_(activation),
        columns_(l_.matrix_columns()),
        count_(l_.units + s_.points) {}

  // Whether any extremum can have a gradient.
  JUMPSTART_DEVICE bool any() const {
    if (s_.grad_extrema) return true;
    bool found = false;
    for (int i = 0; i < kLayerSums; ++i) found |= !(s_.grad_slack_sums[i] == 0);
    return found;
  }

  JUMPSTART_DEVICE void add(int64_t begin, int64_t end, int64_t first_column, int64_t last_column) const {
    const Tile tile{begin, end, first_column, last_column};
    if (l_.inner == 1) {
      add_range(tile, 0, first_column, last_column, l_.units);
    } else {  // each row belongs to one unit
      const int64_t units = end - begin < l_.units ? end - begin : l_.units;
      add_range(tile, 0, begin % l_.units, begin % l_.units + units, l_.units);
    }
    if (l_.points_across(s_.position_points)) {
      for (int64_t group = begin / l_.units; group * l_.units < end; ++group) {
        const int64_t first = group * l_.inner;
        add_range(tile, l_.units, first + first_column, first + last_column, s_.points);
      }
    } else {
      const int64_t rows = l_.rows_per_point(s_.position_points);
      add_range(tile, l_.units, begin / rows, (end - 1) / rows + 1, s_.points);
    }
  }

 private:
  struct Tile {
    int64_t begin, end, first_column, last_column;
  };

  // Extrema `first` to `last`, modulo `size`, of the axis that starts at `offset`.
  JUMPSTART_DEVICE void add_range(const Tile& tile, int64_t offset, int64_t first, int64_t last,
                                  int64_t size) const {
    const int64_t length = last - first;
    for (int64_t i = threadIdx.x; i < 2 * length; i += kThreads) {
      const int64_t side = i < length ? 0 : 1;
      int64_t item = first + i - side * length;
      if (item >= size) item -= size;
      const int64_t index = s_.indices[side * count_ + offset + item];
      if (index >= 0) add_to_element(tile, index);
    }
  }

  // Recomputes the whole gradient of an element, which may hold several extrema: threads that share an
  // element then write the same bits, and a 16-bit sum is rounded once.
  JUMPSTART_DEVICE void add_to_element(const Tile& tile, int64_t index) const {
    int64_t row = index / columns_, column = index - row * columns_;
    if (l_.channels_last) {
      const int64_t position = index % l_.rows, plane = index / l_.rows;  // plane of a sample and a unit
      row = plane / l_.units * l_.rows + position;
      column = plane % l_.units;
    }
    if (row < tile.begin || row >= tile.end || column < tile.first_column || column >= tile.last_column) {
      return;
    }
    const int64_t offset = row * columns_ + column;
    stat_t grad = 0;
    if (e_.grad_output) {
      using P = Pack<scalar_t>;
      const uint32_t bit = e_.mask[row * l_.mask_columns() + column / 8] >> (column & 7);
      const auto by_output =
          activation_.template gradient<P>(P::from_element(e_.grad_output[offset]), P::from_bits(bit, 0));
      grad = to_stat(P::to_element(by_output));  // rounded to scalar_t, as in every other element
    }
    const int64_t unit = l_.inner == 1 ? column : row % l_.units;
    const int64_t point = l_.points_across(s_.position_points) ? row / l_.units * l_.inner + column
                                                               : row / l_.rows_per_point(s_.position_points);
    const stat_t* sums = s_.grad_slack_sums;
    grad = add_item(grad, index, unit, sums);
    grad = add_item(grad, index, l_.units + point, sums ? sums + kSlackSums : nullptr);
    e_.grad_x[offset] = from_stat<scalar_t>(grad);
  }

  // Adds the gradients of a unit's or point's maximum and minimum, if this element holds them.
  JUMPSTART_DEVICE stat_t add_item(stat_t grad, int64_t index, int64_t k, const stat_t* sums) const {
    if (s_.indices[k] == index) grad += extremum(k, k, false, sums);
    if (s_.indices[count_ + k] == index) grad += extremum(k, count_ + k, true, sums);
    return grad;
  }

  JUMPSTART_DEVICE stat_t extremum(int64_t k, int64_t direct, bool of_minimum, const stat_t* sums) const {
    const stat_t grad = s_.grad_extrema ? s_.grad_extrema[direct] : stat_t{0};
    if (!sums) return grad;
    const auto slack = slack_of(s_.extrema[k], s_.extrema[count_ + k], s_.margin);
    return grad + slack_gradient(slack, of_minimum, sums);
  }

  const ElementwiseBackward<scalar_t>& e_;
  const StatisticsBackward<stat_t>& s_;
  const Layout& l_;
  const Activation& activation_;
  const int64_t columns_, count_;
};

template <typename scalar_t, int elements, bool extrema, typename Activation>
class Gradient {
  using V = Vector<scalar_t, elements>;
  using P = typename V::P;
  using Value = typename V::Value;

 public:
  JUMPSTART_DEVICE Gradient(const Backward<scalar_t>& b, const Activation& activation)
      : b_(b),
        e_(b.elementwise),
        activation_(activation),
        t_(b.plan.tiling),
        lane_(static_cast<int>(threadIdx.x) % t_.lanes),
        row_lane_(static_cast<int>(threadIdx.x) / t_.lanes),
        height_(kThreads / t_.lanes) {}

  JUMPSTART_DEVICE void run(int64_t work) {
    const int64_t tile = work % t_.tiles;
    begin_ = work / t_.tiles * t_.region_rows;
    column_ = tile * t_.tile_columns + lane_ * elements;
    const ExtremaGradients<scalar_t, Activation> gradients(b_, activation_);
    bool any = false;
    if constexpr (extrema) any = gradients.any();  // early, to hide the latency of its loads
    const int64_t left = t_.rows - begin_;
    rows_ = static_cast<int32_t>(left < t_.region_rows ? left : t_.region_rows);
    if (column_ < t_.columns) {
      int32_t row = row_lane_;
      for (; row + (kDepth - 1) * height_ < rows_; row += kDepth * height_) step<true>(row);
      if (row < rows_) step<false>(row);
    }
    if constexpr (extrema) {
      if (!any) return;
      __syncthreads();  // an element is streamed before extrema are added to it
      const int64_t first = tile * t_.tile_columns, last = first + t_.tile_columns;
      gradients.add(begin_, begin_ + rows_, first, last < t_.columns ? last : t_.columns);
    }
  }

 private:
  template <bool full>
  JUMPSTART_DEVICE void step(int32_t row) {
    const int64_t offset = (begin_ + row) * t_.columns + column_, stride = height_ * t_.columns;
    Value grad[kDepth][V::kPacks] = {};
    uint32_t bits[kDepth] = {};
    if (e_.grad_output) {
      const uint8_t* mask = e_.mask + (begin_ + row) * t_.mask_columns + column_ / 8;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (!full && row + d * height_ >= rows_) continue;
        V::load(e_.grad_output + offset + d * stride, grad[d]);
        bits[d] = mask[d * height_ * t_.mask_columns];
      }
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (!full && row + d * height_ >= rows_) continue;
      if constexpr (elements < 8) bits[d] >>= column_ & 7;
#pragma unroll
      for (int p = 0; p < V::kPacks; ++p) {
        grad[d][p] = activation_.template gradient<P>(grad[d][p], P::from_bits(bits[d], p));
      }
      V::store(e_.grad_x + offset + d * stride, grad[d]);
    }
  }

  const Backward<scalar_t>& b_;
  const ElementwiseBackward<scalar_t>& e_;
  const Activation& activation_;
  const Tiling& t_;
  const int lane_, row_lane_, height_;
  int64_t begin_, column_;
  int32_t rows_;  // of the region
};

template <typename scalar_t, int elements, bool extrema, typename Activation>
__global__ void __launch_bounds__(kThreads, 3)
    jumpstart_activation_backward_kernel(const __grid_constant__ Backward<scalar_t> b,
                                         const __grid_constant__ Activation activation) {
  Gradient<scalar_t, elements, extrema, Activation> gradient(b, activation);
  for (int64_t work = blockIdx.x; work < b.plan.tiling.work(); work += gridDim.x) gradient.run(work);
}

}  // namespace cuda
}  // namespace jumpstart
