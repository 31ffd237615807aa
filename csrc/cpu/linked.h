// The kernels of the linked activations, cat(g(x), g(-x)): both halves of the output in one pass, and the
// gradient of x from both. A matrix row of x has one matrix row in each half.

#pragma once

#include <algorithm>
#include <cstdint>

#include "activations/linked.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"
#include "half_rows.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

// The slopes of both halves, [2, units]: of a plane, or of the columns of a row.
template <typename V, bool has_weight>
class SlopesOf {
  using stat_t = typename V::stat_t;

 public:
  SlopesOf(const void* slopes, const HalfRows& rows)
      : slopes_(static_cast<const stat_t*>(slopes)), units_(rows.units), planes_(rows.planes) {}

  // Of the columns from `column` on, `width` of them.
  JUMPSTART_INLINE Halves<V> at(int64_t row, int64_t column, int width) const {
    if constexpr (!has_weight) return {zero<V>(), zero<V>()};
    if (planes_) {
      const int64_t unit = row % units_;
      return {V::broadcast(slopes_[unit]), V::broadcast(slopes_[units_ + unit])};
    }
    if (width == V::lanes)
      return {V::load_values(slopes_ + column), V::load_values(slopes_ + units_ + column)};
    stat_t padded[2][V::lanes] = {};
    for (int half = 0; half < 2; ++half) std::copy_n(slopes_ + half * units_ + column, width, padded[half]);
    return {V::load_values(padded[0]), V::load_values(padded[1])};
  }

 private:
  const stat_t* slopes_;
  int64_t units_;
  bool planes_;
};

// Calls run(column, width) for the vectors of a row, of which the last may be narrower.
template <typename V, typename Run>
JUMPSTART_INLINE void for_vectors(int64_t columns, const Run& run) {
  int64_t column = 0;
  for (; column + V::lanes <= columns; column += V::lanes)
    run(column, std::integral_constant<int, V::lanes>());
  if (column < columns) run(column, static_cast<int>(columns - column));
}

template <typename V>
JUMPSTART_INLINE typename V::Raw load_vector(const typename V::scalar_t* from, int width) {
  return width == V::lanes ? V::load(from) : V::load_first(from, width);
}

template <typename V>
JUMPSTART_INLINE void store_vector(typename V::scalar_t* to, typename V::Values values, int width,
                                   bool stream) {
  const auto raw = V::rounded(values);
  if (width < V::lanes) return V::store_first(to, raw, width);
  stream ? V::stream(to, raw) : V::store(to, raw);
}

template <typename V>
JUMPSTART_INLINE void store_mask(uint8_t* to, typename V::Mask mask, int width) {
  if (width == V::lanes) return store_bits<V::lanes>(to, V::bits(mask));
  store_bits(to, V::bits(mask) & ((1u << width) - 1), width);
}

// The values where the bits of a mask are set, else 0.
template <typename V>
JUMPSTART_INLINE typename V::Values keep_values(typename V::Raw raw, const uint8_t* mask, int width) {
  const uint32_t bits = width == V::lanes ? load_bits<V::lanes>(mask) : load_bits(mask, width);
  return V::values(V::keep(raw, V::lanes_of(bits)));
}

template <typename scalar_t, typename Activation>
void linked_forward(const LinkedForward& f, int64_t begin, int64_t end) {
  using V = VectorOf<scalar_t>;
  const HalfRows rows(f.layout);
  const SlopesOf<V, Activation::has_weight> slopes(f.slopes, rows);
  const int64_t columns = rows.columns, mask_columns = f.layout.mask_columns();
  const bool stream = f.stream;
  for (int64_t row = begin; row < end; ++row) {
    const auto* x = static_cast<const scalar_t*>(f.x) + row * columns;
    auto* const first = static_cast<scalar_t*>(f.output) + rows.first(row);
    auto* const second = static_cast<scalar_t*>(f.output) + rows.second(row);
    uint8_t* const mask = f.mask + 2 * row * mask_columns;
    for_vectors<V>(columns, [&](int64_t column, int width) JUMPSTART_INLINE_LAMBDA {
      const auto values = V::values(load_vector<V>(x + column, width));
      const Halves<V> halves = Activation::template values<V>(values, slopes.at(row, column, width));
      store_vector<V>(first + column, halves.first, width, stream);
      store_vector<V>(second + column, halves.second, width, stream);
      if constexpr (Activation::from_sign) {
        store_mask<V>(mask + column / 8, positive<V>(values), width);
        store_mask<V>(mask + mask_columns + column / 8, negative<V>(values), width);
      }
    });
  }
  if (stream) V::fence();
}

template <typename scalar_t, typename Activation>
class LinkedGradient {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;

 public:
  explicit LinkedGradient(const LinkedBackward& b) : b_(b), rows_(b.layout), slopes_(b.slopes, rows_) {}

  void run(int64_t begin, int64_t end) const {
    if constexpr (Activation::has_weight) {
      if (b_.slope_sums) return with_sums(begin, end);
    }
    for (int64_t row = begin; row < end; ++row) of_row(row, [](const auto&...) {});
    if (b_.stream) V::fence();
  }

 private:
  void with_sums(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) rows_.planes ? sum_plane(row) : sum_columns(row);
    if (b_.stream) V::fence();
  }

  // Calls seen(column, width, gradients of both halves, x) for the vectors of a row.
  template <typename Seen>
  JUMPSTART_INLINE void of_row(int64_t row, const Seen& seen) const {
    const int64_t columns = rows_.columns, mask_columns = b_.layout.mask_columns();
    const auto* const first = static_cast<const scalar_t*>(b_.grad_output) + rows_.first(row);
    const auto* const second = static_cast<const scalar_t*>(b_.grad_output) + rows_.second(row);
    auto* const to = static_cast<scalar_t*>(b_.grad_x) + row * columns;
    const bool stream = b_.stream;
    for_vectors<V>(columns, [&](int64_t column, int width) JUMPSTART_INLINE_LAMBDA {
      const auto raw_first = load_vector<V>(first + column, width);
      const auto raw_second = load_vector<V>(second + column, width);
      if constexpr (Activation::from_sign) {
        const uint8_t* mask = b_.mask + 2 * row * mask_columns + column / 8;
        const Halves<V> kept{keep_values<V>(raw_first, mask, width),
                             keep_values<V>(raw_second, mask + mask_columns, width)};
        store_vector<V>(to + column, Activation::template gradient<V>(kept), width, stream);
      } else {
        const Halves<V> grad{V::values(raw_first), V::values(raw_second)};
        const auto* from = static_cast<const scalar_t*>(b_.x) + row * columns + column;
        const auto x = V::values(load_vector<V>(from, width));
        const auto value = Activation::template gradient<V>(grad, x, slopes_.at(row, column, width));
        store_vector<V>(to + column, value, width, stream);
        seen(column, width, grad, x);
      }
    });
  }

  // Adds the first `width` lanes to sums in memory.
  static void add_to(stat_t* sums, Values v, int width) {
    if (width == V::lanes) return V::store_values(sums, V::add(V::load_values(sums), v));
    stat_t lanes[V::lanes];
    V::store_values(lanes, v);
    for (int i = 0; i < width; ++i) sums[i] += lanes[i];
  }

  // The slopes' gradients over the columns of a row, added to those of its chunk.
  JUMPSTART_INLINE void sum_columns(int64_t row) const {
    stat_t* sums = static_cast<stat_t*>(b_.slope_sums) + row / b_.chunk_rows * 2 * rows_.units;
    if (row % b_.chunk_rows == 0) std::fill_n(sums, 2 * rows_.units, stat_t{0});
    of_row(row, [&](int64_t column, int width, const Halves<V>& grad, Values x) JUMPSTART_INLINE_LAMBDA {
      const Halves<V> found = Activation::template slope_gradients<V>(grad, x);
      add_to(sums + column, found.first, width);
      add_to(sums + rows_.units + column, found.second, width);
    });
  }

  // The same over a plane.
  JUMPSTART_INLINE void sum_plane(int64_t plane) const {
    constexpr int64_t kStep = 64 * V::lanes;  // columns that are summed in one go, so that few values add up
    stat_t total[2][V::lanes] = {};
    Halves<V> sum{zero<V>(), zero<V>()};
    const auto flush = [&](int width) JUMPSTART_INLINE_LAMBDA {
      add_to(total[0], sum.first, width);
      add_to(total[1], sum.second, width);
      sum = {zero<V>(), zero<V>()};
    };
    of_row(plane, [&](int64_t column, int width, const Halves<V>& grad, Values x) JUMPSTART_INLINE_LAMBDA {
      if (column % kStep == 0 || width < V::lanes) flush(V::lanes);
      const Halves<V> found = Activation::template slope_gradients<V>(grad, x);
      sum = {V::add(sum.first, found.first), V::add(sum.second, found.second)};
      if (width < V::lanes) flush(width);
    });
    flush(V::lanes);
    stat_t* to = static_cast<stat_t*>(b_.slope_sums) + plane / rows_.units * 2 * rows_.units;
    for (int half = 0; half < 2; ++half) {
      stat_t all = 0;
      for (const stat_t lane : total[half]) all += lane;
      to[half * rows_.units + plane % rows_.units] = all;
    }
  }

  const LinkedBackward& b_;
  HalfRows rows_;
  SlopesOf<V, Activation::has_weight> slopes_;
};

template <typename scalar_t, typename Activation>
void linked_backward(const LinkedBackward& b, int64_t begin, int64_t end) {
  LinkedGradient<scalar_t, Activation>(b).run(begin, end);
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
