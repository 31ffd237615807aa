// Rows with fewer units than a vector has lanes, each row a point: one row per lane.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "cpu/bias.h"
#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation, bool with_bias>
class NarrowRows {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Mask = typename V::Mask;
  static constexpr bool store = has_output<Activation>;
  static constexpr int kBits = 64;  // the mask of a block fits into a word

 public:
  static bool fits(const Forward& f, const Partial<stat_t>& partial) {
    return f.layout.rows_per_point(f.position_points) == 1 && f.layout.units < V::lanes &&
           f.layout.units * V::lanes <= kBits && partial.end - partial.begin >= V::lanes;
  }

  NarrowRows(const Forward& f, Partial<stat_t>& partial)
      : forward_(f),
        x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        columns_(static_cast<int>(f.layout.units)),
        activation_(f.parameter),
        p_(partial) {
    for (int i = 0; i < V::lanes; ++i) first_element_[i] = static_cast<stat_t>(i * columns_);
    if (!with_bias) return;
    for (int i = 0; i < columns_ * V::lanes; ++i) {
      bias_[i] = static_cast<const stat_t*>(f.bias)[i % columns_];
    }
  }

  void run() {
    for (int c = 0; c < columns_; ++c) {
      V::store_values(max_[c], V::broadcast(-std::numeric_limits<stat_t>::infinity()));
      V::store_values(min_[c], V::broadcast(std::numeric_limits<stat_t>::infinity()));
      std::fill_n(max_at_[c], V::lanes, 0);
      std::fill_n(min_at_[c], V::lanes, 0);
    }
    Mask nan = V::none();
    int64_t row = p_.begin;
    for (; row + V::lanes <= p_.end; row += V::lanes) {
      block(row, nan);
      if constexpr (!store) run_linked(forward_, row, row + V::lanes);
    }
    if (row < p_.end) {
      block(p_.end - V::lanes, nan);  // repeats some rows, which changes nothing
      if constexpr (!store) run_linked(forward_, row, p_.end);
    }
    if (V::bits(nan)) {
      Rows<scalar_t, Activation, with_bias>(forward_, p_).exact();
      return;
    }
    for (int c = 0; c < columns_; ++c) {
      p_.unit_max[c] = V::largest(V::load_values(max_[c]));
      p_.unit_min[c] = V::smallest(V::load_values(min_[c]));
      p_.unit_max_at[c] = first_row(max_[c], max_at_[c], p_.unit_max[c]);
      p_.unit_min_at[c] = first_row(min_[c], min_at_[c], p_.unit_min[c]);
    }
  }

 private:
  // The first row that holds an extremum, of those that each lane has found.
  static int32_t first_row(const stat_t* found, const int32_t* at, stat_t extremum) {
    int32_t first = std::numeric_limits<int32_t>::max();
    for (int i = 0; i < V::lanes; ++i) {
      first = std::min(first, found[i] == extremum ? at[i] + i : std::numeric_limits<int32_t>::max());
    }
    return first;
  }

  JUMPSTART_INLINE void block(int64_t row, Mask& nan) {
    stat_t values[kBits];  // [lanes, columns]
    uint64_t bits = 0;
    for (int i = 0; i < columns_; ++i) {
      const int64_t offset = row * columns_ + i * V::lanes;
      auto raw = V::load(x_ + offset);
      if constexpr (with_bias) raw = plus<V>(raw, V::load_values(bias_ + i * V::lanes));
      const Values v = V::values(raw);
      V::store_values(values + i * V::lanes, v);
      nan = V::either(nan, V::unordered(v, v));
      if constexpr (store) {
        const auto sign = V::positive(raw);
        V::store(output_ + offset, activation_.template value<V>(raw, sign));
        bits |= static_cast<uint64_t>(V::sign_bits(sign)) << (i * V::lanes);
      }
    }
    if (store) {
      const uint64_t row_bits = (uint64_t{1} << columns_) - 1;
      for (int i = 0; i < V::lanes; ++i) {
        mask_[row + i] = static_cast<uint8_t>(bits >> (i * columns_) & row_bits);
      }
    }
    const int32_t at = static_cast<int32_t>(row - p_.begin);  // of the first lane
    Values row_max = V::gather(values, columns_), row_min = row_max;
    Values element = V::load_values(first_element_), max_element = element,
           min_element = element;  // in block
    for (int c = 0; c < columns_; ++c) {
      const Values v = c ? V::gather(values + c, columns_) : row_max;
      max_element = V::select(V::less(row_max, v), element, max_element);
      min_element = V::select(V::less(v, row_min), element, min_element);
      element = V::add(element, V::broadcast(1));
      row_max = V::max(row_max, v);
      row_min = V::min(row_min, v);
      const Values unit_max = V::load_values(max_[c]), unit_min = V::load_values(min_[c]);
      V::store_where(max_at_[c], V::less(unit_max, v), at);
      V::store_where(min_at_[c], V::less(v, unit_min), at);
      V::store_values(max_[c], V::max(unit_max, v));
      V::store_values(min_[c], V::min(unit_min, v));
    }
    V::store_values(p_.point_max + row, row_max);
    V::store_values(p_.point_min + row, row_min);
    V::store_integers(p_.point_max_element + row, max_element, row * columns_);
    V::store_integers(p_.point_min_element + row, min_element, row * columns_);
  }

  const Forward& forward_;
  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int columns_;
  Activation activation_;
  Partial<stat_t>& p_;
  stat_t bias_[with_bias ? kBits : 1];                        // of a block, [rows, columns]
  stat_t first_element_[V::lanes];                            // of each row of a block
  stat_t max_[V::lanes][V::lanes], min_[V::lanes][V::lanes];  // [columns, lanes]
  int32_t max_at_[V::lanes][V::lanes], min_at_[V::lanes][V::lanes];
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
