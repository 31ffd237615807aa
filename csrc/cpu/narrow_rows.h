// Rows with fewer units than a vector has lanes, each row a point: one row per lane.

#pragma once

#include <cstdint>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/rows.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation>
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
        p_(partial) {}

  void run() {
    for (int c = 0; c < columns_; ++c) {
      V::store_values(max_[c], V::broadcast(-std::numeric_limits<stat_t>::infinity()));
      V::store_values(min_[c], V::broadcast(std::numeric_limits<stat_t>::infinity()));
      for (int i = 0; i < V::lanes; ++i) max_at_[c][i] = min_at_[c][i] = i;
    }
    Mask nan = V::none();
    int64_t row = p_.begin;
    for (; row + V::lanes <= p_.end; row += V::lanes) block(row, nan);
    if (row < p_.end) block(p_.end - V::lanes, nan);  // repeats some rows, which changes nothing
    if (V::bits(nan)) {
      Rows<scalar_t, Activation>(forward_, p_).exact();
      return;
    }
    for (int c = 0; c < columns_; ++c) {
      int highest = 0, lowest = 0;
      for (int i = 1; i < V::lanes; ++i) {
        if (max_[c][i] > max_[c][highest] ||
            (max_[c][i] == max_[c][highest] && max_at_[c][i] < max_at_[c][highest])) {
          highest = i;
        }
        if (min_[c][i] < min_[c][lowest] ||
            (min_[c][i] == min_[c][lowest] && min_at_[c][i] < min_at_[c][lowest])) {
          lowest = i;
        }
      }
      p_.unit_max[c] = max_[c][highest], p_.unit_max_at[c] = max_at_[c][highest];
      p_.unit_min[c] = min_[c][lowest], p_.unit_min_at[c] = min_at_[c][lowest];
    }
  }

 private:
  JUMPSTART_INLINE void block(int64_t row, Mask& nan) {
    stat_t values[kBits];  // [lanes, columns]
    uint64_t bits = 0;
    for (int i = 0; i < columns_; ++i) {
      const int64_t offset = row * columns_ + i * V::lanes;
      const auto raw = V::load(x_ + offset);
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
    Values row_max = V::gather(values, columns_), row_min = row_max;
    for (int c = 0; c < columns_; ++c) {
      const Values v = c ? V::gather(values + c, columns_) : row_max;
      row_max = V::max(row_max, v);
      row_min = V::min(row_min, v);
      const Values unit_max = V::load_values(max_[c]), unit_min = V::load_values(min_[c]);
      const Mask higher = V::less(unit_max, v), lower = V::less(v, unit_min);
      if (V::bits(V::either(higher, lower)) == 0) continue;
      V::store_values(max_[c], V::max(unit_max, v));
      V::store_values(min_[c], V::min(unit_min, v));
      const uint32_t up = V::bits(higher), down = V::bits(lower);
      const int32_t at = static_cast<int32_t>(row - p_.begin);
      for (int i = 0; i < V::lanes; ++i) {
        max_at_[c][i] = up >> i & 1 ? at + i : max_at_[c][i];
        min_at_[c][i] = down >> i & 1 ? at + i : min_at_[c][i];
      }
    }
    V::store_values(p_.point_max + row, row_max);
    V::store_values(p_.point_min + row, row_min);
  }

  const Forward& forward_;
  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int columns_;
  Activation activation_;
  Partial<stat_t>& p_;
  stat_t max_[V::lanes][V::lanes], min_[V::lanes][V::lanes];  // [columns, lanes]
  int32_t max_at_[V::lanes][V::lanes], min_at_[V::lanes][V::lanes];
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
