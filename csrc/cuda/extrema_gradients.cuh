// The gradients of extrema, each of which belongs to one element.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/packs.cuh"
#include "cuda/penalty_gradient.cuh"
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
  const stat_t* grad_slack_sums;    // [2, kSlackSums]; null: not in the loss
  PenaltyGradient<stat_t> penalty;  // in place of grad_slack_sums
  const stat_t* grad_extrema;       // [2, units + points]; null: not in the loss
  const stat_t* extrema;            // [2, units + points]
  const int64_t* indices;           // [2, units + points]
  int64_t points;
  bool position_points;
  stat_t margin;

  JUMPSTART_INLINE bool with_grad_sums() const { return grad_slack_sums || penalty.grad; }
  JUMPSTART_INLINE bool with_gradient() const { return with_grad_sums() || grad_extrema; }

  // Puts the gradient of the slack sums, or zeros, into a block's shared memory. The block must meet before
  // it is used.
  JUMPSTART_DEVICE void load_grad_sums(stat_t (&to)[kLayerSums]) const {
    const auto i = static_cast<int>(threadIdx.x);
    if (i >= kLayerSums) return;
    if (grad_slack_sums) {
      to[i] = grad_slack_sums[i];
    } else {
      to[i] = penalty.grad ? penalty.of_sum(i) : stat_t{0};
    }
  }
};

template <typename scalar_t>
struct Backward {
  ElementwiseBackward<scalar_t> elementwise;
  StatisticsBackward<stat_of<scalar_t>> statistics;
  BackwardPlan plan;
  Layout layout;
};

// The gradient of a single element, before those of extrema are added.
template <typename scalar_t, typename Activation>
JUMPSTART_DEVICE stat_of<scalar_t> gradient_of_element(const ElementwiseBackward<scalar_t>& elementwise,
                                                       const Layout& layout, const Activation& activation,
                                                       int64_t row, int64_t column) {
  using P = Pack<scalar_t>;
  const uint32_t bit = elementwise.mask[row * layout.mask_columns() + column / 8] >> (column & 7);
  const scalar_t grad = elementwise.grad_output[row * layout.matrix_columns() + column];
  const auto by_output = activation.template gradient<P>(P::from_element(grad), P::from_bits(bit, 0));
  return to_stat(P::to_element(by_output));  // rounded to scalar_t, as in every other element
}

// The gradients of extrema.
template <typename scalar_t, typename Activation>
class ExtremaGradients {
  using stat_t = stat_of<scalar_t>;

 public:
  // `grad_sums`: [2, kSlackSums], in shared memory, of StatisticsBackward::load_grad_sums.
  JUMPSTART_DEVICE ExtremaGradients(const Backward<scalar_t>& b, const Activation& activation,
                                    const stat_t* grad_sums)
      : e_(b.elementwise),
        s_(b.statistics),
        l_(b.layout),
        activation_(activation),
        grad_sums_(grad_sums),
        columns_(l_.matrix_columns()),
        count_(l_.units + s_.points) {}

  // Whether any extremum can have a gradient.
  JUMPSTART_DEVICE bool any() const {
    if (s_.grad_extrema) return true;
    bool found = false;
    for (int i = 0; i < kLayerSums; ++i) found |= !(grad_sums_[i] == 0);
    return found;
  }

  // Adds those that lie in a tile, after the tile has been written. Whether this thread has found one of a
  // point.
  JUMPSTART_DEVICE bool add(int64_t begin, int64_t end, int64_t first_column, int64_t last_column) const {
    bool found = false;
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
        found |= add_range(tile, l_.units, first + first_column, first + last_column, s_.points);
      }
    } else {
      const int64_t rows = l_.rows_per_point(s_.position_points);
      found |= add_range(tile, l_.units, begin / rows, (end - 1) / rows + 1, s_.points);
    }
    return found;
  }

  // Adds all of them, after all elements have been written.
  JUMPSTART_DEVICE void add_all() const {
    const Tile whole{0, l_.matrix_rows(), 0, columns_};
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (int64_t i = first; i < 2 * count_; i += static_cast<int64_t>(gridDim.x) * kThreads) {
      if (s_.indices[i] >= 0) add_to_element(whole, s_.indices[i]);
    }
  }

  // What those of a unit add to its sum.
  JUMPSTART_DEVICE stat_t of_unit(int64_t unit) const {
    const Item item = load(unit);
    stat_t sum = 0;
    if (item.max_at >= 0) sum += extremum(item, false, grad_sums_);
    if (item.min_at >= 0) sum += extremum(item, true, grad_sums_);
    return sum;
  }

  // What those of points add to `elements` neighbors, if units are columns and a row is of one point.
  template <int elements>
  JUMPSTART_DEVICE void add_points(int64_t row, int64_t column, stat_t (&sums)[elements]) const {
    const int64_t step = l_.channels_last ? l_.rows : 1;
    const int64_t first = flat(row, column), point = l_.units + row / l_.rows_per_point(s_.position_points);
    const Item item = load(point);
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int64_t at = (side ? item.min_at : item.max_at) - first;
      if (at < 0 || at >= elements * step) continue;
      const stat_t grad = extremum(item, side, point_grad_sums());
#pragma unroll
      for (int e = 0; e < elements; ++e) sums[e] += at == e * step ? grad : stat_t{0};
    }
  }

  // What those of points add to the sum of `elements` neighbors in a plane.
  template <int elements>
  JUMPSTART_DEVICE stat_t of_points(int64_t row, int64_t column) const {
    const bool across = l_.points_across(s_.position_points);
    const int64_t first = row * columns_ + column;
    const int64_t point = l_.units + (across ? row / l_.units * l_.inner + column
                                             : row / l_.rows_per_point(s_.position_points));
    stat_t sum = 0;
#pragma unroll 1
    for (int e = 0; e < elements; ++e) {
      sum = add_item(sum, first + e, load(point + (across ? e : 0)), point_grad_sums());
    }
    return sum;
  }

 private:
  static constexpr int kBatch = 2;  // extrema that a thread looks up at once

  struct Tile {
    int64_t begin, end, first_column, last_column;
  };
  // The extrema of a unit or point.
  struct Item {
    int64_t max_at, min_at;  // indices
    stat_t largest, smallest;
    stat_t grad_max, grad_min;  // of the extrema themselves
  };

  // Loads all at once: in a thin layer each load waits for memory, and little else takes time.
  JUMPSTART_DEVICE Item load(int64_t k) const {
    Item item{s_.indices[k], s_.indices[count_ + k], s_.extrema[k], s_.extrema[count_ + k], 0, 0};
    if (s_.grad_extrema) {
      item.grad_max = s_.grad_extrema[k];
      item.grad_min = s_.grad_extrema[count_ + k];
    }
    return item;
  }

  // Extrema `first` to `last`, modulo `size`, of the axis that starts at `offset`.
  JUMPSTART_DEVICE bool add_range(const Tile& tile, int64_t offset, int64_t first, int64_t last,
                                  int64_t size) const {
    const int64_t length = last - first;
    bool found = false;
    for (int64_t begin = threadIdx.x; begin < 2 * length; begin += kBatch * kThreads) {
      int64_t indices[kBatch];  // loaded at once
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int64_t i = begin + b * kThreads, side = i < length ? 0 : 1;
        int64_t item = first + i - side * length;
        if (item >= size) item -= size;
        indices[b] = i < 2 * length ? s_.indices[side * count_ + offset + item] : -1;
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (indices[b] >= 0) found |= add_to_element(tile, indices[b]);
      }
    }
    return found;
  }

  // Recomputes the whole gradient of an element, which may hold several extrema: threads that share an
  // element then write the same bits, and a 16-bit sum is rounded once.
  JUMPSTART_DEVICE bool add_to_element(const Tile& tile, int64_t index) const {
    int64_t row = index / columns_, column = index - row * columns_;
    if (l_.channels_last) {
      const int64_t position = index % l_.rows, plane = index / l_.rows;  // plane of a sample and a unit
      row = plane / l_.units * l_.rows + position;
      column = plane % l_.units;
    }
    if (row < tile.begin || row >= tile.end || column < tile.first_column || column >= tile.last_column) {
      return false;
    }
    const int64_t unit = l_.inner == 1 ? column : row % l_.units;
    const int64_t point = l_.points_across(s_.position_points) ? row / l_.units * l_.inner + column
                                                               : row / l_.rows_per_point(s_.position_points);
    const Item of_unit = load(unit), of_point = load(l_.units + point);
    stat_t grad = 0;
    if (e_.grad_output) grad = gradient_of_element(e_, l_, activation_, row, column);
    grad = add_item(grad, index, of_unit, grad_sums_);
    grad = add_item(grad, index, of_point, point_grad_sums());
    e_.grad_x[row * columns_ + column] = from_stat<scalar_t>(grad);
    return true;
  }

  JUMPSTART_DEVICE const stat_t* point_grad_sums() const { return grad_sums_ + kSlackSums; }

  // The index in the flattened tensor of an element of a matrix whose columns are units.
  JUMPSTART_DEVICE int64_t flat(int64_t row, int64_t column) const {
    if (!l_.channels_last) return row * columns_ + column;
    return (row / l_.rows * l_.units + column) * l_.rows + row % l_.rows;
  }

  // Adds the gradients of a unit's or point's maximum and minimum, if this element holds them.
  JUMPSTART_DEVICE stat_t add_item(stat_t grad, int64_t index, const Item& item, const stat_t* sums) const {
    if (item.max_at == index) grad += extremum(item, false, sums);
    if (item.min_at == index) grad += extremum(item, true, sums);
    return grad;
  }

  JUMPSTART_DEVICE stat_t extremum(const Item& item, bool of_minimum, const stat_t* sums) const {
    const stat_t grad = of_minimum ? item.grad_min : item.grad_max;
    if (!s_.with_grad_sums()) return grad;
    return grad + slack_gradient(slack_of(item.largest, item.smallest, s_.margin), of_minimum, sums);
  }

  const ElementwiseBackward<scalar_t>& e_;
  const StatisticsBackward<stat_t>& s_;
  const Layout& l_;
  const Activation& activation_;
  const stat_t* grad_sums_;
  const int64_t columns_, count_;
};

}  // namespace cuda
}  // namespace jumpstart
