// The element-wise kernels: gradient of the activation, and the activation in place.

#pragma once

#include <cstdint>

#include "cpu/bias.h"
#include "cpu/exact.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

// Matrix rows [begin, end); as a single row if the mask has no padding between rows.
struct Span {
  Span(const Layout& layout, int64_t begin_, int64_t end_)
      : columns(layout.matrix_columns()), mask_columns(layout.mask_columns()), begin(begin_), end(end_) {
    if (columns % 8) return;
    first = begin * columns, first_byte = begin * mask_columns;
    columns *= end - begin, mask_columns *= end - begin;
    begin = 0, end = 1;
  }
  int64_t columns, mask_columns, begin, end;
  int64_t first = 0, first_byte = 0;
};

// Whether the mask of a block of matrix rows, as many as a vector has lanes, fits into a word.
template <typename V>
bool is_narrow(int64_t columns) {
  return columns < 8 && columns * V::lanes <= 64;
}

// Blocks of narrow rows. Returns the first row after the last block.
template <typename V, typename Activation>
int64_t narrow_backward(const Backward& b, int64_t row, int64_t end) {
  using scalar_t = typename V::scalar_t;
  const Activation activation(b.parameter);
  const int columns = static_cast<int>(b.layout.matrix_columns());
  const uint64_t row_bits = (uint64_t{1} << columns) - 1;
  const auto* from = static_cast<const scalar_t*>(b.grad_output) + row * columns;
  auto* to = static_cast<scalar_t*>(b.grad_x) + row * columns;
  for (; row + V::lanes <= end; row += V::lanes) {
    uint64_t bits = 0;
    for (int i = 0; i < V::lanes; ++i) {
      bits |= (b.mask[row + i] & row_bits) << (i * columns);
    }
    for (int i = 0; i < columns; ++i, from += V::lanes, to += V::lanes) {
      const auto positive = V::lanes_of(static_cast<uint32_t>(bits >> (i * V::lanes)));
      V::store(to, activation.template gradient<V>(V::load(from), positive));
    }
  }
  return row;
}

template <typename scalar_t, typename Activation>
void backward(const Backward& b, int64_t begin, int64_t end) {
  using V = VectorOf<scalar_t>;
  if (is_narrow<V>(b.layout.matrix_columns())) begin = narrow_backward<V, Activation>(b, begin, end);
  if (begin == end) return;
  const Activation activation(b.parameter);
  const Span span(b.layout, begin, end);
  const auto* all = static_cast<const scalar_t*>(b.grad_output) + span.first;
  auto* grad_x = static_cast<scalar_t*>(b.grad_x) + span.first;
  const int64_t limit = span.end * span.columns - V::lanes;  // the last offset at which a whole vector fits
  for (int64_t row = span.begin; row < span.end; ++row) {
    const auto* from = all + row * span.columns;
    auto* to = grad_x + row * span.columns;
    const uint8_t* mask = b.mask + span.first_byte + row * span.mask_columns;
    int64_t column = 0;
    for (; column + 4 * V::lanes <= span.columns; column += 4 * V::lanes) {
      typename V::Sign positive[4];
      V::load_signs(mask + column / 8, positive);
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
        const auto grad = activation.template gradient<V>(V::load(from + column + i * V::lanes), positive[i]);
        scalar_t* place = to + column + i * V::lanes;
        b.stream ? V::stream(place, grad) : V::store(place, grad);
      }
    }
    for (; column + V::lanes <= span.columns; column += V::lanes) {
      const auto positive = V::lanes_of(load_bits<V::lanes>(mask + column / 8));
      const auto grad = activation.template gradient<V>(V::load(from + column), positive);
      b.stream ? V::stream(to + column, grad) : V::store(to + column, grad);
    }
    if (column == span.columns) continue;
    const int width = static_cast<int>(span.columns - column);
    const auto positive = V::lanes_of(load_bits(mask + column / 8, width));
    if (row * span.columns + column <= limit) {  // overlaps the next row, which is written later
      V::store(to + column, activation.template gradient<V>(V::load(from + column), positive));
    } else {
      const auto grad = V::load_first(from + column, width);
      V::store_first(to + column, activation.template gradient<V>(grad, positive), width);
    }
  }
  if (b.stream) V::fence();
}

template <typename scalar_t, typename Activation, bool with_bias>
void inplace(const Forward& f, int64_t begin, int64_t end) {
  using V = VectorOf<scalar_t>;
  const Activation activation(f.parameter);
  const int64_t columns = f.layout.matrix_columns(), mask_columns = f.layout.mask_columns();
  const int64_t whole = columns - columns % V::lanes;  // columns in whole vectors
  const int rest = static_cast<int>(columns - whole);
  using stat_t = typename V::stat_t;
  const bool by_column = f.layout.inner == 1;
  stat_t rest_bias[V::lanes];
  for (int i = 0; with_bias && by_column && rest && i < V::lanes; ++i) {
    rest_bias[i] = static_cast<const stat_t*>(f.bias)[whole + (i < rest ? i : 0)];
  }
  for (int64_t row = begin; row < end; ++row) {
    auto* x = static_cast<scalar_t*>(f.output) + row * columns;
    uint8_t* mask = f.mask + row * mask_columns;
    const auto* biases = static_cast<const stat_t*>(f.bias);
    const auto of_plane = V::broadcast(with_bias && !by_column ? biases[row % f.layout.units] : 0);
    const auto load = [&](int64_t column) {
      const auto raw = V::load(x + column);
      if constexpr (!with_bias) return raw;
      return plus<V>(raw, by_column ? V::load_values(biases + column) : of_plane);
    };
    const auto load_rest = [&] {
      const auto raw = V::load_first(x + whole, rest);
      if constexpr (!with_bias) return raw;
      return plus<V>(raw, by_column ? V::load_values(rest_bias) : of_plane);
    };
    // Vector maxima lose NaN, the sum keeps it. The row is still in cache when it is read again.
    auto sum = V::broadcast(0);
    for (int64_t column = 0; column < whole; column += V::lanes) {
      sum = V::add(sum, V::values(load(column)));
    }
    if (rest) sum = V::add(sum, V::values(load_rest()));
    if (V::bits(V::unordered(sum, sum))) {
      exact_row(activation, RowInput<scalar_t, with_bias>(f, row), x, mask, columns);
      continue;
    }
    for (int64_t column = 0; column < whole; column += V::lanes) {
      const auto raw = load(column);
      const auto sign = V::positive(raw);
      V::store(x + column, activation.template value<V>(raw, sign));
      if constexpr (kStoresSigns) {
        V::store_signs(mask + column / 8, sign);
      } else {
        store_bits<V::lanes>(mask + column / 8, V::sign_bits(sign));
      }
    }
    if (!rest) continue;
    const auto raw = load_rest();
    const auto sign = V::positive(raw);
    V::store_first(x + whole, activation.template value<V>(raw, sign), rest);
    store_bits(mask + whole / 8, V::sign_bits(sign) & ((1u << rest) - 1), rest);
  }
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
