// Blocks of matrix rows whose columns are units: outputs, mask bits and extrema.

#pragma once

#include <cstdint>
#include <limits>

#include "cpu/bias.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

// Takes a block's groups of columns first, a row at a time, and then down the columns, which are by then in
// the first cache. Then the rest of its columns, both at once. Extrema of columns go to chunk_max and
// chunk_min of the partial. If extrema are limited, those of rows are followed up to the margin, those of
// groups of columns while Partial::follows says so.
template <typename scalar_t, typename Activation, bool with_bias>
class RowBlocks {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Sign = typename V::Sign;

  // Position of a vector in its row: a partial vector at the end is replaced by one that ends with the row.
  enum Reach { whole, streamed, last, short_row };

  static constexpr bool store = has_output<Activation>;
  static constexpr int64_t kTile = 4096 / sizeof(scalar_t);  // columns of a block that are taken at once
  static constexpr int64_t kElements = 4 * kTile;            // of a block, 16 KiB: about

  // Where some rows of a block begin.
  struct Pointers {
    const scalar_t* x;
    const stat_t* bias;
    scalar_t* output;
    uint8_t* mask;
    stat_t *chunk_max, *chunk_min;
    int64_t columns, mask_columns;
    int rest;  // columns after the last whole vector
    Activation activation;
  };

 public:
  static constexpr int64_t kGroup = 4 * V::lanes;  // columns that are followed together, if at all
  static constexpr int64_t kMostRows = 32;

  RowBlocks(const Forward& f, const Partial<stat_t>& partial)
      : columns(f.layout.units),
        grouped(columns < 2 * kGroup && !f.limited ? 0 : columns / kGroup * kGroup),
        rows(rows_of_block(columns)),
        x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        mask_columns_(f.layout.mask_columns()),
        stream_(f.stream),
        activation_(f.parameter),
        limited_(f.limited),
        margin_(static_cast<stat_t>(f.margin)),
        bias_(static_cast<const stat_t*>(f.bias)),
        p_(partial) {
    if (!with_bias || columns >= V::lanes) return;
    for (int i = 0; i < V::lanes; ++i) short_bias_[i] = bias_[i < columns ? i : 0];  // as load_first
    bias_ = short_bias_;
  }
  RowBlocks(const RowBlocks&) = delete;
  RowBlocks& operator=(const RowBlocks&) = delete;

  const int64_t columns;
  const int64_t grouped;        // columns in whole groups; a single one only if it may be left unfollowed
  const int64_t rows;           // of a block, at most kMostRows
  bool follows_columns = true;  // any of them

  JUMPSTART_INLINE static void start(Values& max, Values& min) {
    max = V::broadcast(-std::numeric_limits<stat_t>::infinity());
    min = V::broadcast(std::numeric_limits<stat_t>::infinity());
  }

  // The groups of columns of a block of rows: outputs, mask bits, extrema of its columns, and of its
  // rows: max[0], max[step], ..., or max[0] of all if `step` is 0.
  void groups(int64_t row, int64_t count, Values* max, Values* min, int step, Values& sum) {
    Values total = sum;
    for (int64_t begin = 0; begin < grouped; begin += kTile) {
      const int64_t end = begin + kTile < grouped ? begin + kTile : grouped;
      for (int64_t k = 0; k < count; ++k) {
        stream_ ? across<true>(row + k, begin, end, max[k * step], min[k * step], total)
                : across<false>(row + k, begin, end, max[k * step], min[k * step], total);
      }
      if (follows_columns) down(row, count, begin, end);
    }
    sum = total;
  }

  // The columns after the last group, of which all extrema are followed.
  template <int count>
  JUMPSTART_INLINE void rest(int64_t row, Values* max, Values* min, Values& sum) {
    int64_t column = grouped;
    if (column == columns) return;
    const Pointers at = pointers(row);
    for (; column + 2 * V::lanes <= at.columns; column += 2 * V::lanes) {
      stream_ ? vectors<count, 2, streamed>(at, column, max, min, sum)
              : vectors<count, 2, whole>(at, column, max, min, sum);
    }
    if (column + V::lanes <= at.columns) {
      vectors<count, 1, whole>(at, column, max, min, sum);
      column += V::lanes;
    }
    if (column == at.columns) return;
    if (column > 0) {
      vectors<count, 1, last>(at, at.columns - V::lanes, max, min, sum);
    } else {
      vectors<count, 1, short_row>(at, 0, max, min, sum);
    }
  }

 private:
  static int64_t rows_of_block(int64_t columns) {
    const int64_t rows = kElements / columns / 4 * 4;
    return rows < 4 ? 4 : rows > kMostRows ? kMostRows : rows;
  }

  // Whether the maximum of a row, or its minimum, has reached the margin in no lane.
  JUMPSTART_INLINE bool is_open(Values max, Values min) const {
    constexpr uint32_t all = (uint32_t{1} << V::lanes) - 1;
    return V::bits(V::less(max, V::broadcast(margin_))) == all ||
           V::bits(V::less(V::broadcast(-margin_), min)) == all;
  }

  // Local copies: a store to the mask may alias any member, so members would be reloaded.
  JUMPSTART_INLINE Pointers pointers(int64_t row) const {
    return {x_ + row * columns,
            bias_,
            output_ + row * columns,
            mask_ + row * mask_columns_,
            p_.chunk_max,
            p_.chunk_min,
            columns,
            mask_columns_,
            static_cast<int>(columns % V::lanes),
            activation_};
  }

  // The input with the bias of its columns, if there is one.
  JUMPSTART_INLINE static typename V::Raw with_bias_of(const stat_t* bias, typename V::Raw x) {
    if constexpr (with_bias) return plus<V>(x, V::load_values(bias));
    return x;
  }

  // Groups of vectors of a row. If extrema are limited, the row's are followed up to the margin.
  template <bool stream>
  JUMPSTART_INLINE void across(int64_t row, int64_t column, int64_t end, Values& max, Values& min,
                               Values& sum) {
    const Pointers at = pointers(row);
    Values largest = max, smallest = min;
    const bool limited = limited_;
    bool follows = !limited || is_open(largest, smallest);
    for (; follows && column < end; column += kGroup) {
      group<stream, true>(at, column, largest, smallest, sum);
      if (limited) follows = is_open(largest, smallest);
    }
    for (; column < end; column += kGroup) group<stream, false>(at, column, largest, smallest, sum);
    max = largest, min = smallest;
  }

  // Four adjacent vectors of a row.
  template <bool stream, bool follow>
  JUMPSTART_INLINE static void group(const Pointers& at, int64_t column, Values& max, Values& min,
                                     Values& sum) {
    Values v[4];
    Sign sign[4];
    JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
      const auto raw = with_bias_of(at.bias + column + i * V::lanes, V::load(at.x + column + i * V::lanes));
      v[i] = V::values(raw);
      if constexpr (store) {
        sign[i] = V::positive(raw);
        const auto value = at.activation.template value<V>(raw, sign[i]);
        scalar_t* to = at.output + column + i * V::lanes;
        stream ? V::stream(to, value) : V::store(to, value);
      }
    }
    if constexpr (store) V::store_signs(at.mask + column / 8, sign);
    if constexpr (follow) {
      max = V::max(max, V::max(V::max(v[0], v[1]), V::max(v[2], v[3])));
      min = V::min(min, V::min(V::min(v[0], v[1]), V::min(v[2], v[3])));
    }
    sum = V::add(sum, V::add(V::add(v[0], v[1]), V::add(v[2], v[3])));
  }

  // Extrema of groups of columns that are followed, in a block of rows that is in the first cache.
  void down(int64_t row, int64_t count, int64_t column, int64_t end) {
    const scalar_t* rows = x_ + row * columns;
    for (; column < end; column += kGroup) {
      if (!p_.follows[column / kGroup]) continue;
      Values max[4], min[4];
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
        max[i] = V::load_values(p_.chunk_max + column + i * V::lanes);
        min[i] = V::load_values(p_.chunk_min + column + i * V::lanes);
      }
      const scalar_t* x = rows + column;
      for (int64_t k = 0; k < count; ++k, x += columns) {
        JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
          const Values v = V::values(with_bias_of(bias_ + column + i * V::lanes, V::load(x + i * V::lanes)));
          max[i] = V::max(max[i], v);
          min[i] = V::min(min[i], v);
        }
      }
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
        V::store_values(p_.chunk_max + column + i * V::lanes, max[i]);
        V::store_values(p_.chunk_min + column + i * V::lanes, min[i]);
      }
    }
  }

  // `width` adjacent vectors of each row.
  template <int count, int width, Reach reach>
  JUMPSTART_INLINE void vectors(const Pointers& at, int64_t column, Values* max, Values* min, Values& sum) {
    Values column_max[width], column_min[width], part = V::broadcast(0);
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      Sign sign[width];
      JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
        const int64_t offset = k * at.columns + column + i * V::lanes;
        const auto raw =
            with_bias_of(at.bias + column + i * V::lanes,
                         reach == short_row ? V::load_first(at.x + offset, at.rest) : V::load(at.x + offset));
        const Values v = V::values(raw);
        if constexpr (store) {
          sign[i] = V::positive(raw);
          const auto value = at.activation.template value<V>(raw, sign[i]);
          if (reach == short_row) {
            V::store_first(at.output + offset, value, at.rest);
          } else {
            reach == streamed ? V::stream(at.output + offset, value) : V::store(at.output + offset, value);
          }
        }
        max[k] = V::max(max[k], v);
        min[k] = V::min(min[k], v);
        column_max[i] = k ? V::max(column_max[i], v) : v;
        column_min[i] = k ? V::min(column_min[i], v) : v;
        part = k + i ? V::add(part, v) : v;
      }
      if constexpr (store) {
        JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
          store_row_bits<reach>(at.mask + k * at.mask_columns, column + i * V::lanes, sign[i], at);
        }
      }
    }
    sum = V::add(sum, part);
    JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
      stat_t *unit_max = p_.chunk_max + column + i * V::lanes,
             *unit_min = p_.chunk_min + column + i * V::lanes;
      V::store_values(unit_max, V::max(column_max[i], V::load_values(unit_max)));
      V::store_values(unit_min, V::min(column_min[i], V::load_values(unit_min)));
    }
  }

  template <Reach reach>
  JUMPSTART_INLINE static void store_row_bits(uint8_t* mask, int64_t column, Sign sign, const Pointers& at) {
    if constexpr ((reach == whole || reach == streamed) && kStoresSigns) {
      V::store_signs(mask + column / 8, sign);
      return;
    }
    const uint32_t bits = V::sign_bits(sign);
    if (reach == last) {
      store_bits(mask + at.columns / V::lanes * V::lanes / 8, bits >> (V::lanes - at.rest), at.rest);
    } else if (reach == short_row) {
      store_bits(mask, bits & ((1u << at.rest) - 1), at.rest);
    } else {
      store_bits<V::lanes>(mask + column / 8, bits);
    }
  }

  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t mask_columns_;
  bool stream_;
  Activation activation_;
  bool limited_;
  stat_t margin_;
  const stat_t* bias_;
  stat_t short_bias_[V::lanes];  // of rows that are shorter than a vector
  const Partial<stat_t>& p_;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
