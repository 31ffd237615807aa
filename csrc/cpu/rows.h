// Layouts with inner == 1: a matrix row is a position, its columns are units.

#pragma once

#include <cstdint>
#include <limits>

#include "cpu/exact.h"
#include "cpu/kernels.h"
#include "cpu/mask_bits.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation>
class Rows {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Mask = typename V::Mask;
  using Sign = typename V::Sign;

  // Position of a vector in its row: a partial vector at the end is replaced by one that ends with the row.
  enum Reach { whole, streamed, last, short_row };

  static constexpr bool store = has_output<Activation>;

  // Rows per chunk: unit extrema are located to a chunk, which is then searched.
  static constexpr int64_t kChunk = 32;
  static constexpr int64_t kPair = 2 * V::lanes;   // columns of two vectors
  static constexpr int64_t kGroup = 4 * V::lanes;  // columns that are followed together, if at all

  template <int count>
  struct Block {
    const scalar_t* x;
    scalar_t* output;
    uint8_t* mask;
    stat_t *unit_max, *unit_min;
    int64_t columns, mask_columns;
    int rest;  // columns after the last whole vector
    Activation activation;
  };

 public:
  Rows(const Forward& f, Partial<stat_t>& partial)
      : x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        columns_(f.layout.units),
        mask_columns_(f.layout.mask_columns()),
        rows_per_point_(f.layout.rows_per_point(f.position_points)),
        stream_(f.stream),
        activation_(f.parameter),
        limited_(f.limited),
        margin_(static_cast<stat_t>(f.margin)),
        p_(partial) {}

  void run() {
    for (int64_t group = 0; group * kGroup < columns_; ++group) p_.follows[group] = 1;
    clear(p_.unit_max, p_.unit_min);
    for (int64_t c = 0; c < columns_; ++c) p_.unit_max_at[c] = p_.unit_min_at[c] = 0;
    Mask nan = V::none();  // lanes with a NaN, or with infinities of both signs
    for (int64_t row = p_.begin; row < p_.end;) {
      const int64_t begin = row, end = row + kChunk < p_.end ? row + kChunk : p_.end;
      if (follows_columns_) clear(p_.chunk_max, p_.chunk_min);
      while (row < end) {
        const Mask found = rows_per_point_ == 1 ? points(row, end) : part_of_point(row, end);
        nan = V::either(nan, found);
      }
      if (follows_columns_) merge_chunk(begin);
    }
    if (V::bits(nan)) exact();
  }

  // The same value by value, for a range with a NaN, which vectors lose.
  void exact() {
    clear(p_.unit_max, p_.unit_min);
    for (int64_t c = 0; c < columns_; ++c) p_.unit_max_at[c] = p_.unit_min_at[c] = 0;
    for (int64_t row = p_.begin; row < p_.end; ++row) {
      const int64_t point = row / rows_per_point_;
      const int64_t first = point * rows_per_point_ > p_.begin ? point * rows_per_point_ : p_.begin;
      stat_t *largest = p_.max_of(point, first), *smallest = p_.min_of(point, first);
      const scalar_t* values = x_ + row * columns_;
      if constexpr (store) {
        exact_row(activation_, values, output_ + row * columns_, mask_ + row * mask_columns_, columns_);
      }
      if (row == first) *largest = *smallest = to_float(values[0]);
      if (p_.point_max_column) p_.point_max_column[point] = p_.point_min_column[point] = 0;
      const int32_t at = static_cast<int32_t>(row - p_.begin);
      for (int64_t c = 0; c < columns_; ++c) {
        const stat_t v = to_float(values[c]);
        if (above(v, *largest)) {
          *largest = v;
          if (p_.point_max_column) p_.point_max_column[point] = c;
        }
        if (below(v, *smallest)) {
          *smallest = v;
          if (p_.point_min_column) p_.point_min_column[point] = c;
        }
        if (above(v, p_.unit_max[c])) p_.unit_max[c] = v, p_.unit_max_at[c] = at;
        if (below(v, p_.unit_min[c])) p_.unit_min[c] = v, p_.unit_min_at[c] = at;
      }
    }
  }

 private:
  void clear(stat_t* max, stat_t* min) {
    for (int64_t c = 0; c < columns_; ++c) {
      max[c] = -std::numeric_limits<stat_t>::infinity();
      min[c] = std::numeric_limits<stat_t>::infinity();
    }
  }

  // Rows that are points, up to the end. Returns the lanes in which their sum is NaN.
  Mask points(int64_t& next, int64_t end) {
    Values sum = V::broadcast(0);
    Values max[4], min[4];
    int64_t row = next;
    for (; row + 4 <= end; row += 4) {
      start<4>(max, min);
      JUMPSTART_UNROLL for (int k = 0; k < 4; k += kRowBlock) {
        bool follows = true;
        block<kRowBlock>(row + k, max + k, min + k, sum, follows);
      }
      V::largest(max, p_.point_max + row);
      V::smallest(min, p_.point_min + row);
      if (p_.point_max_column) {
        for (int64_t k = row; k < row + 4; ++k) locate(k);
      }
    }
    for (; row < end; ++row) {
      start<1>(max, min);
      bool follows = true;
      block<1>(row, max, min, sum, follows);
      p_.point_max[row] = V::largest(max[0]);
      p_.point_min[row] = V::smallest(min[0]);
      if (p_.point_max_column) locate(row);
    }
    next = row;
    return V::unordered(sum, sum);
  }

  // Finds the columns of the extrema of a point that is a row of few columns.
  void locate(int64_t row) {
    const scalar_t* values = x_ + row * columns_;
    int64_t max_column = 0, min_column = 0;
    for (int64_t c = columns_ - 1; c >= 0; --c) {
      const stat_t v = to_float(values[c]);
      max_column = v == p_.point_max[row] ? c : max_column;
      min_column = v == p_.point_min[row] ? c : min_column;
    }
    p_.point_max_column[row] = max_column, p_.point_min_column[row] = min_column;
  }

  // The rows of one point, up to its last row or the end.
  Mask part_of_point(int64_t& next, int64_t end) {
    const int64_t point = next / rows_per_point_, begin = next;
    int64_t row = next;
    Values sum = V::broadcast(0);
    if ((point + 1) * rows_per_point_ < end) end = (point + 1) * rows_per_point_;
    Values max[kRowBlock], min[kRowBlock];
    start<kRowBlock>(max, min);
    bool follows = true;
    for (; row + kRowBlock <= end; row += kRowBlock) block<kRowBlock>(row, max, min, sum, follows);
    for (; row < end; ++row) block<1>(row, max, min, sum, follows);
    JUMPSTART_UNROLL for (int k = 1; k < kRowBlock; ++k) {
      max[0] = V::max(max[0], max[k]);
      min[0] = V::min(min[0], min[k]);
    }
    const stat_t largest = V::largest(max[0]), smallest = V::smallest(min[0]);
    const int64_t first = point * rows_per_point_ > p_.begin ? point * rows_per_point_ : p_.begin;
    stat_t *point_max = p_.max_of(point, first), *point_min = p_.min_of(point, first);
    if (begin == first || largest > *point_max) *point_max = largest;
    if (begin == first || smallest < *point_min) *point_min = smallest;
    next = row;
    return V::unordered(sum, sum);
  }

  // Merges the extrema of a chunk of rows into those of the task, and decides which columns to follow
  // further.
  void merge_chunk(int64_t row) {
    const int32_t at = static_cast<int32_t>(row - p_.begin);
    for (int64_t column = 0; column < columns_; column += V::lanes) {  // padded to whole vectors
      const Values max = V::load_values(p_.chunk_max + column), min = V::load_values(p_.chunk_min + column);
      const Values unit_max = V::load_values(p_.unit_max + column),
                   unit_min = V::load_values(p_.unit_min + column);
      const Mask higher = V::less(unit_max, max), lower = V::less(min, unit_min);
      if (V::bits(V::either(higher, lower)) == 0) continue;
      V::store_where(p_.unit_max_at + column, higher, at);
      V::store_where(p_.unit_min_at + column, lower, at);
      V::store_values(p_.unit_max + column, V::max(unit_max, max));
      V::store_values(p_.unit_min + column, V::min(unit_min, min));
    }
    if (!limited_) return;
    follows_columns_ = columns_ % kGroup != 0;  // what is left after the last group
    for (int64_t group = 0; (group + 1) * kGroup <= columns_; ++group) {
      if (!p_.follows[group]) continue;
      Mask open = V::none();
      for (int64_t column = group * kGroup; column < (group + 1) * kGroup; column += V::lanes) {
        const Values max = V::load_values(p_.unit_max + column), min = V::load_values(p_.unit_min + column);
        open = V::either(open, outside(max, min));
      }
      p_.follows[group] = V::bits(open) != 0;
      follows_columns_ |= V::bits(open) != 0;
    }
  }

  // The lanes whose extrema have not reached the margin.
  JUMPSTART_INLINE Mask outside(Values max, Values min) const {
    return V::either(V::less(max, V::broadcast(margin_)), V::less(V::broadcast(-margin_), min));
  }

  // Whether an extremum of a block's rows has not reached the margin.
  template <int count>
  bool is_open(const Values* max, const Values* min) const {
    constexpr uint32_t all = (uint32_t{1} << V::lanes) - 1;
    const Values margin = V::broadcast(margin_), negative = V::broadcast(-margin_);
    bool open = false;
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      open |= V::bits(V::less(max[k], margin)) == all || V::bits(V::less(negative, min[k])) == all;
    }
    return open;
  }

  template <int count>
  JUMPSTART_INLINE void start(Values* max, Values* min) {
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      max[k] = V::broadcast(-std::numeric_limits<stat_t>::infinity());
      min[k] = V::broadcast(std::numeric_limits<stat_t>::infinity());
    }
  }

  // Reads a block of matrix rows once: outputs, mask bits, extrema of its rows and of its columns. If extrema
  // are limited, rows are followed while `follows`, columns as merge_chunk decides.
  template <int count>
  JUMPSTART_INLINE void block(int64_t row, Values* max, Values* min, Values& sum, bool& follows) {
    // Local copies: a store to the mask may alias any member, so members would be reloaded.
    const Block<count> b{x_ + row * columns_,
                         output_ + row * columns_,
                         mask_ + row * mask_columns_,
                         p_.chunk_max,
                         p_.chunk_min,
                         columns_,
                         mask_columns_,
                         static_cast<int>(columns_ % V::lanes),
                         activation_};
    int64_t column = stream_ ? groups<count, streamed>(b, max, min, sum, follows)
                             : groups<count, whole>(b, max, min, sum, follows);
    if (column + kPair <= b.columns) {
      vectors<count, 2, whole>(b, column, max, min, sum);
      column += kPair;
    }
    if (column + V::lanes <= b.columns) {
      vectors<count, 1, whole>(b, column, max, min, sum);
      column += V::lanes;
    }
    if (column == b.columns) return;
    if (column > 0) {
      vectors<count, 1, last>(b, b.columns - V::lanes, max, min, sum);
    } else {
      vectors<count, 1, short_row>(b, 0, max, min, sum);
    }
  }

  // The whole groups of vectors; returns the first column after them.
  template <int count, Reach reach>
  JUMPSTART_INLINE int64_t groups(const Block<count>& b, Values* max, Values* min, Values& sum,
                                  bool& follows) {
    const int64_t end = b.columns / kGroup * kGroup;
    const uint8_t* follows_columns = p_.follows;
    const bool limited = limited_;
    for (int64_t column = 0; column < end;) {
      if (count == 1 || follows || follows_columns[column / kGroup]) {
        vectors<count, 2, reach>(b, column, max, min, sum);
        vectors<count, 2, reach>(b, column + kPair, max, min, sum);
        column += kGroup;
        if (follows && limited) follows = is_open<count>(max, min);
        continue;
      }
      int64_t next = column + kGroup;
      while (next < end && !follows_columns[next / kGroup]) next += kGroup;
      for (int k = 0; k < count; ++k) unfollowed<reach>(b, k, column, next, sum);
      column = next;
    }
    return end;
  }

  // Columns of one row whose extrema need not be followed.
  template <Reach reach, int count>
  JUMPSTART_INLINE void unfollowed(const Block<count>& b, int k, int64_t column, int64_t end, Values& sum) {
    const scalar_t* x = b.x + k * b.columns;
    scalar_t* output = b.output + k * b.columns;
    uint8_t* mask = b.mask + k * b.mask_columns;
    const Activation activation = b.activation;
    Values sums[2] = {V::broadcast(0), V::broadcast(0)};
    for (; column < end; column += kGroup) {
      Sign sign[4];
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
        const auto raw = V::load(x + column + i * V::lanes);
        sums[i % 2] = V::add(sums[i % 2], V::values(raw));
        if constexpr (store) {
          sign[i] = V::positive(raw);
          const auto value = activation.template value<V>(raw, sign[i]);
          scalar_t* to = output + column + i * V::lanes;
          reach == streamed ? V::stream(to, value) : V::store(to, value);
        }
      }
      if constexpr (store) V::store_signs(mask + column / 8, sign);
    }
    sum = V::add(sum, V::add(sums[0], sums[1]));
  }

  // `width` adjacent vectors of each row.
  template <int count, int width, Reach reach>
  JUMPSTART_INLINE void vectors(const Block<count>& b, int64_t column, Values* max, Values* min,
                                Values& sum) {
    Values column_max[width], column_min[width], part = V::broadcast(0);
    Sign sign[count][width];
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
        const int64_t offset = k * b.columns + column + i * V::lanes;
        const auto raw = reach == short_row ? V::load_first(b.x + offset, b.rest) : V::load(b.x + offset);
        const Values v = V::values(raw);
        if constexpr (store) {
          sign[k][i] = V::positive(raw);
          const auto value = b.activation.template value<V>(raw, sign[k][i]);
          if (reach == short_row) {
            V::store_first(b.output + offset, value, b.rest);
          } else {
            reach == streamed ? V::stream(b.output + offset, value) : V::store(b.output + offset, value);
          }
        }
        max[k] = V::max(max[k], v);
        min[k] = V::min(min[k], v);
        column_max[i] = k ? V::max(column_max[i], v) : v;
        column_min[i] = k ? V::min(column_min[i], v) : v;
        part = k + i ? V::add(part, v) : v;
      }
      if constexpr (store && kStoresSigns && (reach == whole || reach == streamed)) {
        JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
          V::store_signs(b.mask + k * b.mask_columns + column / 8 + i * V::lanes / 8, sign[k][i]);
        }
      } else if (store && width == 2 && k % 2) {
        const uint64_t bits = V::sign_bits(sign[k - 1][0], sign[k - 1][1], sign[k][0], sign[k][1]);
        uint8_t* mask = b.mask + (k - 1) * b.mask_columns + column / 8;
        store_bits<2 * V::lanes>(mask, static_cast<uint32_t>(bits));
        store_bits<2 * V::lanes>(mask + b.mask_columns, static_cast<uint32_t>(bits >> 2 * V::lanes));
      } else if (store && (width == 1 || count == 1)) {
        JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
          store_row_bits<reach>(b.mask + k * b.mask_columns, column + i * V::lanes, V::sign_bits(sign[k][i]),
                                b);
        }
      }
    }
    sum = V::add(sum, part);
    JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
      stat_t *unit_max = b.unit_max + column + i * V::lanes, *unit_min = b.unit_min + column + i * V::lanes;
      V::store_values(unit_max, V::max(column_max[i], V::load_values(unit_max)));
      V::store_values(unit_min, V::min(column_min[i], V::load_values(unit_min)));
    }
  }

  template <Reach reach, int count>
  JUMPSTART_INLINE void store_row_bits(uint8_t* mask, int64_t column, uint32_t bits, const Block<count>& b) {
    if (reach == last) {
      store_bits(mask + b.columns / V::lanes * V::lanes / 8, bits >> (V::lanes - b.rest), b.rest);
    } else if (reach == short_row) {
      store_bits(mask, bits & ((1u << b.rest) - 1), b.rest);
    } else {
      store_bits<V::lanes>(mask + column / 8, bits);
    }
  }

  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t columns_, mask_columns_, rows_per_point_;
  bool stream_;
  Activation activation_;
  bool limited_;
  stat_t margin_;
  bool follows_columns_ = true;  // any of them
  Partial<stat_t>& p_;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
