// The backward with the gradient of a bias: that of the input, and its sums, in the same pass.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation>
class BackwardWithSums {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Raw = typename V::Raw;
  using Sign = typename V::Sign;

  static constexpr int64_t kFour = 4 * V::lanes;  // columns of four vectors

 public:
  explicit BackwardWithSums(const Backward& b)
      : b_(b),
        columns_(b.layout.matrix_columns()),
        mask_columns_(b.layout.mask_columns()),
        limit_(b.layout.matrix_rows() * columns_ - V::lanes),
        activation_(b.parameter) {}

  void run(int64_t begin, int64_t end) {
    if (b_.layout.inner > 1) {
      for (int64_t plane = begin; plane < end; ++plane) sums()[plane] = of_plane(plane);
    } else {
      for (int64_t row = begin; row < end; row += b_.chunk_rows)
        chunk(row, std::min(row + b_.chunk_rows, end));
    }
    if (b_.stream) V::fence();
  }

 private:
  stat_t* sums() const { return static_cast<stat_t*>(b_.bias_sums); }
  const scalar_t* from(int64_t row) const {
    return static_cast<const scalar_t*>(b_.grad_output) + row * columns_;
  }
  scalar_t* to(int64_t row) const { return static_cast<scalar_t*>(b_.grad_x) + row * columns_; }
  const uint8_t* mask(int64_t row) const { return b_.mask + row * mask_columns_; }

  // Writes the gradient of a plane; returns its sum.
  stat_t of_plane(int64_t plane) const {
    constexpr int64_t kStep = 64 * kFour;  // columns that are summed in one go, so that few values add up
    const auto* grad = from(plane);
    auto* grad_x = to(plane);
    const uint8_t* bits = mask(plane);
    Values total = V::broadcast(0);
    int64_t column = 0;
    while (column + kFour <= columns_) {
      const int64_t end = std::min(column + kStep, columns_ / kFour * kFour);
      Values sum[4] = {V::broadcast(0), V::broadcast(0), V::broadcast(0), V::broadcast(0)};
      for (; column < end; column += kFour) {
        b_.stream ? four<true>(grad + column, bits + column / 8, grad_x + column, sum)
                  : four<false>(grad + column, bits + column / 8, grad_x + column, sum);
      }
      total = V::add(total, V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])));
    }
    for (; column + V::lanes <= columns_; column += V::lanes) {
      const auto positive = V::lanes_of(load_bits<V::lanes>(bits + column / 8));
      const Raw value = activation_.template gradient<V>(V::load(grad + column), positive);
      V::store(grad_x + column, value);
      total = V::add(total, V::values(value));
    }
    if (column < columns_) total = V::add(total, rest(plane, column));
    return sum_of(total);
  }

  // Less than a vector at the end of a matrix row: writes its gradient, and returns it.
  JUMPSTART_INLINE Values rest(int64_t row, int64_t column) const {
    const int width = static_cast<int>(columns_ - column);
    const scalar_t* grad = from(row) + column;
    const auto positive = V::lanes_of(load_bits(mask(row) + column / 8, width));
    const bool fits = row * columns_ + column <= limit_;
    const Raw all =
        activation_.template gradient<V>(fits ? V::load(grad) : V::load_first(grad, width), positive);
    V::store_first(to(row) + column, all, width);
    return V::values(V::keep(all, V::lanes_of((1u << width) - 1)));
  }

  // Rows whose sums are added up: of few rows, so that few values add up.
  void chunk(int64_t begin, int64_t end) const {
    stat_t* to_sums = sums() + begin / b_.chunk_rows * columns_;
    if (is_narrow<V>(columns_)) {
      narrow(begin, end, to_sums);
      return;
    }
    std::fill_n(to_sums, columns_, stat_t{0});
    constexpr int64_t kRows = 4;
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) block<kRows>(row, to_sums);
    for (; row < end; ++row) block<1>(row, to_sums);
  }

  template <int rows>
  JUMPSTART_INLINE void block(int64_t row, stat_t* to_sums) const {
    const auto* grad = from(row);
    auto* grad_x = to(row);
    const uint8_t* bits = mask(row);
    const int64_t columns = columns_, mask_columns = mask_columns_;
    int64_t column = 0;
    for (; column + kFour <= columns; column += kFour) {
      Values sum[4];
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) sum[i] = V::load_values(to_sums + column + i * V::lanes);
      JUMPSTART_UNROLL for (int k = 0; k < rows; ++k) {
        const int64_t offset = k * columns + column;
        b_.stream ? four<true>(grad + offset, bits + k * mask_columns + column / 8, grad_x + offset, sum)
                  : four<false>(grad + offset, bits + k * mask_columns + column / 8, grad_x + offset, sum);
      }
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) V::store_values(to_sums + column + i * V::lanes, sum[i]);
    }
    for (; column + V::lanes <= columns; column += V::lanes) {
      Values sum = V::load_values(to_sums + column);
      JUMPSTART_UNROLL for (int k = 0; k < rows; ++k) {
        const int64_t offset = k * columns + column;
        const auto positive = V::lanes_of(load_bits<V::lanes>(bits + k * mask_columns + column / 8));
        const Raw value = activation_.template gradient<V>(V::load(grad + offset), positive);
        b_.stream ? V::stream(grad_x + offset, value) : V::store(grad_x + offset, value);
        sum = V::add(sum, V::values(value));
      }
      V::store_values(to_sums + column, sum);
    }
    if (column == columns) return;
    Values sum = V::broadcast(0);
    JUMPSTART_UNROLL for (int k = 0; k < rows; ++k) sum = V::add(sum, rest(row + k, column));
    stat_t added[V::lanes];
    V::store_values(added, sum);
    for (int i = 0; i < columns - column; ++i) to_sums[column + i] += added[i];
  }

  // Four adjacent vectors.
  template <bool stream>
  JUMPSTART_INLINE void four(const scalar_t* grad, const uint8_t* bits, scalar_t* grad_x, Values* sum) const {
    Sign positive[4];
    V::load_signs(bits, positive);
    JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
      const Raw value = activation_.template gradient<V>(V::load(grad + i * V::lanes), positive[i]);
      stream ? V::stream(grad_x + i * V::lanes, value) : V::store(grad_x + i * V::lanes, value);
      sum[i] = V::add(sum[i], V::values(value));
    }
  }

  // Blocks of as many narrow rows as a vector has lanes.
  void narrow(int64_t row, int64_t end, stat_t* to_sums) const {
    const int columns = static_cast<int>(columns_);
    const uint64_t row_bits = (uint64_t{1} << columns) - 1;
    stat_t sum[64], of_rest[V::lanes] = {};  // sum: of a block, [rows, columns]
    std::fill_n(sum, 64, stat_t{0});
    for (; row + V::lanes <= end; row += V::lanes) {
      uint64_t bits = 0;
      for (int i = 0; i < V::lanes; ++i) bits |= (mask(row)[i] & row_bits) << (i * columns);
      for (int i = 0; i < columns; ++i) {
        const auto positive = V::lanes_of(static_cast<uint32_t>(bits >> (i * V::lanes)));
        const Raw value = activation_.template gradient<V>(V::load(from(row) + i * V::lanes), positive);
        V::store(to(row) + i * V::lanes, value);
        V::store_values(sum + i * V::lanes, V::add(V::load_values(sum + i * V::lanes), V::values(value)));
      }
    }
    Values total = V::broadcast(0);
    for (; row < end; ++row) total = V::add(total, rest(row, 0));
    V::store_values(of_rest, total);
    for (int c = 0; c < columns; ++c) {
      to_sums[c] = of_rest[c];
      for (int i = 0; i < V::lanes; ++i) to_sums[c] += sum[i * columns + c];
    }
  }

  static stat_t sum_of(Values v) {
    stat_t lanes[V::lanes], total = 0;
    V::store_values(lanes, v);
    for (const stat_t lane : lanes) total += lane;
    return total;
  }

  const Backward& b_;
  int64_t columns_, mask_columns_;
  int64_t limit_;  // the last offset at which a whole vector fits
  Activation activation_;
};

template <typename scalar_t, typename Activation>
void backward_with_sums(const Backward& b, int64_t begin, int64_t end) {
  BackwardWithSums<scalar_t, Activation>(b).run(begin, end);
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
