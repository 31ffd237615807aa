// Layouts with inner > 1: a matrix row is a plane, the positions of one unit of one sample.

#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/bias.h"
#include "cpu/exact.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation, bool with_bias>
class Planes {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Sign = typename V::Sign;

  static constexpr bool store = has_output<Activation>;
  static constexpr int64_t kFour = 4 * V::lanes;  // columns of four vectors
  static constexpr int64_t kSegment = 2 * kFour;  // columns after which a plane is tested for its margin

 public:
  Planes(const Forward& f, Partial<stat_t>& partial)
      : forward_(f),
        x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        inner_(f.layout.inner),
        mask_columns_(f.layout.mask_columns()),
        units_(f.layout.units),
        across_(f.position_points),
        rows_per_point_(f.layout.rows_per_sample()),
        stream_(f.stream),
        activation_(f.parameter),
        limited_(f.limited),
        margin_(static_cast<stat_t>(f.margin)),
        p_(partial) {}

  void run() {
    for (int64_t c = 0; c < units_; ++c) {  // a task may have no plane of some unit
      p_.unit_max[c] = -std::numeric_limits<stat_t>::infinity();
      p_.unit_min[c] = std::numeric_limits<stat_t>::infinity();
      p_.unit_max_at[c] = p_.unit_min_at[c] = -1;
    }
    int64_t unit = p_.begin % units_, point = p_.begin / rows_per_point_;
    int32_t group = 0;                             // of planes, one per unit
    int64_t first = p_.begin;                      // row of the point in this task
    int64_t next = (point + 1) * rows_per_point_;  // first row of the next one
    for (int64_t plane = p_.begin; plane < p_.end; ++plane) {
      if (!across_ && plane == next) first = plane, next += rows_per_point_, ++point;
      stat_t *point_max = p_.max_of(point, first), *point_min = p_.min_of(point, first);
      const bool follows = !limited_ || across_ || plane == first || p_.unit_max_at[unit] < 0 ||
                           is_open(p_.unit_max[unit], p_.unit_min[unit]) || is_open(*point_max, *point_min);
      stat_t largest, smallest;
      if (scan(plane, follows, largest, smallest)) {
        if (p_.unit_max_at[unit] < 0 || above(largest, p_.unit_max[unit])) {
          p_.unit_max[unit] = largest;
          p_.unit_max_at[unit] = group;
        }
        if (p_.unit_min_at[unit] < 0 || below(smallest, p_.unit_min[unit])) {
          p_.unit_min[unit] = smallest;
          p_.unit_min_at[unit] = group;
        }
        if (!across_) {
          if (plane == first || above(largest, *point_max)) {
            *point_max = largest;
            p_.set_max_element(point, first, plane * inner_);
          }
          if (plane == first || below(smallest, *point_min)) {
            *point_min = smallest;
            p_.set_min_element(point, first, plane * inner_);
          }
        }
      }
      if (across_) positions(plane, unit == 0);
      if constexpr (!store) run_linked(forward_, plane, plane + 1);
      if (++unit == units_) unit = 0, ++group;
    }
  }

 private:
  bool is_open(stat_t largest, stat_t smallest) const { return largest < margin_ || smallest > -margin_; }

  // Output and mask of a plane, and its extrema if they are followed; if they are limited, to the margin.
  // Returns whether there are extrema: a plane with a NaN has them in any case.
  JUMPSTART_INLINE bool scan(int64_t plane, bool follows, stat_t& largest, stat_t& smallest) {
    // Local copies: a store to the mask may alias any member, so members would be reloaded.
    const scalar_t* x = x_ + plane * inner_;
    scalar_t* output = output_ + plane * inner_;
    uint8_t* mask = mask_ + plane * mask_columns_;
    const int64_t inner = inner_;
    const Activation activation = activation_;
    const Values bias =
        with_bias ? V::broadcast(static_cast<const stat_t*>(forward_.bias)[plane % units_]) : Values{};
    Values max[2], min[2], sum[2];
    JUMPSTART_UNROLL for (int k = 0; k < 2; ++k) {
      max[k] = V::broadcast(-std::numeric_limits<stat_t>::infinity());
      min[k] = V::broadcast(std::numeric_limits<stat_t>::infinity());
      sum[k] = V::broadcast(0);
    }
    const int64_t end = inner / kFour * kFour;
    int64_t column = 0;
    while (follows && column < end) {
      const int64_t next = limited_ && column + kSegment < end ? column + kSegment : end;
      if (stream_) {
        for (; column < next; column += kFour) {
          four<true, true>(activation, bias, x + column, output + column, mask + column / 8, max, min, sum);
        }
      } else {
        for (; column < next; column += kFour) {
          four<false, true>(activation, bias, x + column, output + column, mask + column / 8, max, min, sum);
        }
      }
      follows = !limited_ || is_open(V::largest(V::max(max[0], max[1])), V::smallest(V::min(min[0], min[1])));
    }
    const bool followed = column > 0 || follows;
    if (stream_) {
      for (; column < end; column += kFour) {
        four<true, false>(activation, bias, x + column, output + column, mask + column / 8, max, min, sum);
      }
    } else {
      for (; column < end; column += kFour) {
        four<false, false>(activation, bias, x + column, output + column, mask + column / 8, max, min, sum);
      }
    }
    for (; column + V::lanes <= inner; column += V::lanes) {
      const Sign sign = one(activation, bias, V::load(x + column), output + column, max[0], min[0], sum[0]);
      if (store) store_bits<V::lanes>(mask + column / 8, V::sign_bits(sign));
    }
    if (column < inner) rest(activation, bias, x, output, mask, column, max[0], min[0], sum[0]);
    if (V::bits(V::unordered(sum[0], sum[1]))) {
      exact(plane, largest, smallest);
      return true;
    }
    if (!followed) return false;
    largest = V::largest(V::max(max[0], max[1]));
    smallest = V::smallest(V::min(min[0], min[1]));
    return true;
  }

  template <bool stream, bool follows>
  JUMPSTART_INLINE void four(const Activation& activation, Values bias, const scalar_t* x, scalar_t* output,
                             uint8_t* mask, Values* max, Values* min, Values* sum) {
    Sign sign[4];
    JUMPSTART_UNROLL for (int k = 0; k < 4; ++k) {
      sign[k] = one<stream, follows>(activation, bias, V::load(x + k * V::lanes), output + k * V::lanes,
                                     max[k % 2], min[k % 2], sum[k % 2]);
    }
    if (store) V::store_signs(mask, sign);
  }

  template <bool stream = false, bool follows = true>
  JUMPSTART_INLINE Sign one(const Activation& activation, Values bias, typename V::Raw raw, scalar_t* output,
                            Values& max, Values& min, Values& sum) {
    if constexpr (with_bias) raw = plus<V>(raw, bias);
    const Values v = V::values(raw);
    if constexpr (follows) {
      max = V::max(max, v);
      min = V::min(min, v);
    }
    sum = V::add(sum, v);
    Sign sign{};
    if constexpr (store) {
      sign = V::positive(raw);
      const auto value = activation.template value<V>(raw, sign);
      stream ? V::stream(output, value) : V::store(output, value);
    }
    return sign;
  }

  // The rest of a plane after its whole vectors: a vector that ends with the plane, or less than a vector.
  JUMPSTART_INLINE void rest(const Activation& activation, Values bias, const scalar_t* x, scalar_t* output,
                             uint8_t* mask, int64_t column, Values& max, Values& min, Values& sum) {
    const int width = static_cast<int>(inner_ - column);
    if (column) {
      const int64_t first = inner_ - V::lanes;
      const Sign sign = one(activation, bias, V::load(x + first), output + first, max, min, sum);
      if (store) store_bits(mask + column / 8, V::sign_bits(sign) >> (V::lanes - width), width);
    } else {
      scalar_t values[V::lanes];
      const Sign sign = one(activation, bias, V::load_first(x, width), values, max, min, sum);
      if (!store) return;
      std::memcpy(output, values, sizeof(scalar_t) * static_cast<size_t>(width));
      store_bits(mask, V::sign_bits(sign) & ((1u << width) - 1), width);
    }
  }

  // A plane with a NaN, which vectors lose, or with infinities of both signs.
  void exact(int64_t plane, stat_t& largest, stat_t& smallest) {
    const RowInput<scalar_t, with_bias> x(forward_, plane);
    if constexpr (store) {
      exact_row(activation_, x, output_ + plane * inner_, mask_ + plane * mask_columns_, inner_);
    }
    largest = smallest = to_float(x[0]);
    for (int64_t i = 1; i < inner_; ++i) {
      const stat_t v = to_float(x[i]);
      if (above(v, largest)) largest = v;
      if (below(v, smallest)) smallest = v;
    }
  }

  // Extrema of position points, across the planes of a row of units; the plane is still in cache.
  void positions(int64_t plane, bool first) {
    const RowInput<scalar_t, with_bias> values(forward_, plane);
    stat_t* max = p_.point_max + plane / units_ * inner_;
    stat_t* min = p_.point_min + plane / units_ * inner_;
    for (int64_t i = 0; i < inner_; ++i) {
      const stat_t v = to_float(values[i]);
      max[i] = first || above(v, max[i]) ? v : max[i];
      min[i] = first || below(v, min[i]) ? v : min[i];
    }
  }

  const Forward& forward_;
  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t inner_, mask_columns_, units_;
  bool across_;
  int64_t rows_per_point_;
  bool stream_;
  Activation activation_;
  bool limited_;
  stat_t margin_;
  Partial<stat_t>& p_;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
