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
  enum Reach { whole, last, short_row };

  static constexpr bool store = has_output<Activation>;

  // Rows per chunk: unit extrema are located to a chunk, which is then searched.
  static constexpr int64_t kChunk = 32;
  static constexpr int64_t kGroup = 4 * V::lanes;  // columns that are followed together, if at all
  // Elements that are read once from memory, and a second time from the first cache: a block of rows, in
  // tiles of columns.
  static constexpr int64_t kTile = 4096 / sizeof(scalar_t);
  static constexpr int64_t kBlock = 4 * kTile;

  struct Block {
    const scalar_t* x;
    scalar_t* output;
    uint8_t* mask;
    stat_t *chunk_max, *chunk_min;
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
        grouped_(columns_ < 2 * kGroup ? 0 : columns_ / kGroup * kGroup),
        rows_(rows_of_block(columns_)),
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
      const int64_t element = row * columns_;
      if (row == first) {
        *largest = *smallest = to_float(values[0]);
        p_.set_max_element(point, first, element);
        p_.set_min_element(point, first, element);
      }
      const int32_t at = static_cast<int32_t>(row - p_.begin);
      for (int64_t c = 0; c < columns_; ++c) {
        const stat_t v = to_float(values[c]);
        if (above(v, *largest)) {
          *largest = v;
          p_.set_max_element(point, first, element + c);
        }
        if (below(v, *smallest)) {
          *smallest = v;
          p_.set_min_element(point, first, element + c);
        }
        if (above(v, p_.unit_max[c])) p_.unit_max[c] = v, p_.unit_max_at[c] = at;
        if (below(v, p_.unit_min[c])) p_.unit_min[c] = v, p_.unit_min_at[c] = at;
      }
    }
  }

 private:
  static int64_t rows_of_block(int64_t columns) {
    const int64_t rows = kBlock / columns / 4 * 4;
    return rows < 4 ? 4 : rows > kChunk ? kChunk : rows;
  }

  void clear(stat_t* max, stat_t* min) {
    for (int64_t c = 0; c < columns_; ++c) {
      max[c] = -std::numeric_limits<stat_t>::infinity();
      min[c] = std::numeric_limits<stat_t>::infinity();
    }
  }

  // Rows that are points, up to the end. Returns the lanes in which their sum is NaN.
  Mask points(int64_t& next, int64_t end) {
    Values sum = V::broadcast(0), sum_of_groups = sum, max[kChunk], min[kChunk];
    for (int64_t count; next < end; next += count) {
      count = end - next < rows_ ? end - next : rows_;
      for (int64_t k = 0; grouped_ && k < count; ++k) start(max[k], min[k]);
      groups(next, count, max, min, 1, sum_of_groups);
      int64_t k = 0;
      for (; k + 4 <= count; k += 4) {
        Values largest[4], smallest[4];
        take<4>(max + k, min + k, largest, smallest);
        JUMPSTART_UNROLL for (int i = 0; i < 4; i += kRowBlock) {
          rest<kRowBlock>(next + k + i, largest + i, smallest + i, sum);
        }
        V::largest(largest, p_.point_max + next + k);
        V::smallest(smallest, p_.point_min + next + k);
      }
      for (; k < count; ++k) {
        Values largest[1], smallest[1];
        take<1>(max + k, min + k, largest, smallest);
        rest<1>(next + k, largest, smallest, sum);
        p_.point_max[next + k] = V::largest(largest[0]);
        p_.point_min[next + k] = V::smallest(smallest[0]);
      }
      if (p_.point_max_element) {
        for (k = next; k < next + count; ++k) locate(k);
      }
    }
    return V::unordered(sum, sum_of_groups);
  }

  // The extrema of rows as far as their groups have them.
  template <int count>
  JUMPSTART_INLINE void take(const Values* max, const Values* min, Values* largest, Values* smallest) const {
    if (grouped_) {
      JUMPSTART_UNROLL for (int i = 0; i < count; ++i) largest[i] = max[i], smallest[i] = min[i];
    } else {
      JUMPSTART_UNROLL for (int i = 0; i < count; ++i) start(largest[i], smallest[i]);
    }
  }

  // Finds the elements of the extrema of a point that is a row of few columns.
  void locate(int64_t row) {
    const scalar_t* values = x_ + row * columns_;
    int64_t max_column = 0, min_column = 0;
    for (int64_t c = columns_ - 1; c >= 0; --c) {
      const stat_t v = to_float(values[c]);
      max_column = v == p_.point_max[row] ? c : max_column;
      min_column = v == p_.point_min[row] ? c : min_column;
    }
    p_.point_max_element[row] = row * columns_ + max_column;
    p_.point_min_element[row] = row * columns_ + min_column;
  }

  // The rows of one point, up to its last row or the end.
  Mask part_of_point(int64_t& next, int64_t end) {
    const int64_t point = next / rows_per_point_, begin = next;
    Values sum = V::broadcast(0), sum_of_groups = sum, max, min, largest[kRowBlock], smallest[kRowBlock];
    if ((point + 1) * rows_per_point_ < end) end = (point + 1) * rows_per_point_;
    start(max, min);
    JUMPSTART_UNROLL for (int i = 0; i < kRowBlock; ++i) start(largest[i], smallest[i]);
    for (int64_t count; next < end; next += count) {
      count = end - next < rows_ ? end - next : rows_;
      groups(next, count, &max, &min, 0, sum_of_groups);
      int64_t k = 0;
      for (; k + kRowBlock <= count; k += kRowBlock) rest<kRowBlock>(next + k, largest, smallest, sum);
      for (; k < count; ++k) rest<1>(next + k, largest, smallest, sum);
    }
    JUMPSTART_UNROLL for (int i = 0; i < kRowBlock; ++i) {
      max = V::max(max, largest[i]);
      min = V::min(min, smallest[i]);
    }
    const stat_t row_max = V::largest(max), row_min = V::smallest(min);
    const int64_t first = point * rows_per_point_ > p_.begin ? point * rows_per_point_ : p_.begin;
    stat_t *point_max = p_.max_of(point, first), *point_min = p_.min_of(point, first);
    if (begin == first || row_max > *point_max) {
      *point_max = row_max;
      p_.set_max_element(point, first, begin * columns_);
    }
    if (begin == first || row_min < *point_min) {
      *point_min = row_min;
      p_.set_min_element(point, first, begin * columns_);
    }
    return V::unordered(sum, sum_of_groups);
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
    follows_columns_ = grouped_ != columns_;  // what is left after the last group
    for (int64_t group = 0; group * kGroup < grouped_; ++group) {
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

  // Whether an extremum of a row has reached the margin in no lane.
  JUMPSTART_INLINE bool is_open(Values max, Values min) const {
    constexpr uint32_t all = (uint32_t{1} << V::lanes) - 1;
    return V::bits(V::less(max, V::broadcast(margin_))) == all ||
           V::bits(V::less(V::broadcast(-margin_), min)) == all;
  }

  JUMPSTART_INLINE static void start(Values& max, Values& min) {
    max = V::broadcast(-std::numeric_limits<stat_t>::infinity());
    min = V::broadcast(std::numeric_limits<stat_t>::infinity());
  }

  // The groups of columns of a block of rows: outputs, mask bits, extrema of its rows (max[0], max[step],
  // ...) and of its columns.
  void groups(int64_t row, int64_t count, Values* max, Values* min, int step, Values& sum) {
    Values total = sum;
    for (int64_t begin = 0; begin < grouped_; begin += kTile) {
      const int64_t end = begin + kTile < grouped_ ? begin + kTile : grouped_;
      for (int64_t k = 0; k < count; ++k) {
        stream_ ? across<true>(row + k, begin, end, max[k * step], min[k * step], total)
                : across<false>(row + k, begin, end, max[k * step], min[k * step], total);
      }
      if (follows_columns_) down(row, count, begin, end);
    }
    sum = total;
  }

  // Local copies: a store to the mask may alias any member, so members would be reloaded.
  JUMPSTART_INLINE Block block_at(int64_t row) const {
    return {x_ + row * columns_,
            output_ + row * columns_,
            mask_ + row * mask_columns_,
            p_.chunk_max,
            p_.chunk_min,
            columns_,
            mask_columns_,
            static_cast<int>(columns_ % V::lanes),
            activation_};
  }

  // Groups of vectors of a row. If extrema are limited, the row's are followed up to the margin.
  template <bool stream>
  JUMPSTART_INLINE void across(int64_t row, int64_t column, int64_t end, Values& max, Values& min,
                               Values& sum) {
    const Block b = block_at(row);
    Values largest = max, smallest = min;
    const bool limited = limited_;
    bool follows = !limited || is_open(largest, smallest);
    for (; follows && column < end; column += kGroup) {
      group<stream, true>(b, column, largest, smallest, sum);
      if (limited) follows = is_open(largest, smallest);
    }
    for (; column < end; column += kGroup) group<stream, false>(b, column, largest, smallest, sum);
    max = largest, min = smallest;
  }

  // Four adjacent vectors of a row.
  template <bool stream, bool follow>
  JUMPSTART_INLINE static void group(const Block& b, int64_t column, Values& max, Values& min, Values& sum) {
    Values v[4];
    Sign sign[4];
    JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
      const auto raw = V::load(b.x + column + i * V::lanes);
      v[i] = V::values(raw);
      if constexpr (store) {
        sign[i] = V::positive(raw);
        const auto value = b.activation.template value<V>(raw, sign[i]);
        scalar_t* to = b.output + column + i * V::lanes;
        stream ? V::stream(to, value) : V::store(to, value);
      }
    }
    if constexpr (store) V::store_signs(b.mask + column / 8, sign);
    if constexpr (follow) {
      max = V::max(max, V::max(V::max(v[0], v[1]), V::max(v[2], v[3])));
      min = V::min(min, V::min(V::min(v[0], v[1]), V::min(v[2], v[3])));
    }
    sum = V::add(sum, V::add(V::add(v[0], v[1]), V::add(v[2], v[3])));
  }

  // Extrema of groups of columns that are followed, in a block of rows that is in the first cache.
  void down(int64_t row, int64_t count, int64_t column, int64_t end) {
    const scalar_t* rows = x_ + row * columns_;
    for (; column < end; column += kGroup) {
      if (!p_.follows[column / kGroup]) continue;
      Values max[4], min[4];
      JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
        max[i] = V::load_values(p_.chunk_max + column + i * V::lanes);
        min[i] = V::load_values(p_.chunk_min + column + i * V::lanes);
      }
      const scalar_t* x = rows + column;
      for (int64_t k = 0; k < count; ++k, x += columns_) {
        JUMPSTART_UNROLL for (int i = 0; i < 4; ++i) {
          const Values v = V::values(V::load(x + i * V::lanes));
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

  // The columns after the last group, of which all extrema are followed.
  template <int count>
  JUMPSTART_INLINE void rest(int64_t row, Values* max, Values* min, Values& sum) {
    int64_t column = grouped_;
    if (column == columns_) return;
    const Block b = block_at(row);
    for (; column + 2 * V::lanes <= b.columns; column += 2 * V::lanes) {
      vectors<count, 2, whole>(b, column, max, min, sum);
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

  // `width` adjacent vectors of each row.
  template <int count, int width, Reach reach>
  JUMPSTART_INLINE void vectors(const Block& b, int64_t column, Values* max, Values* min, Values& sum) {
    Values column_max[width], column_min[width], part = V::broadcast(0);
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      Sign sign[width];
      JUMPSTART_UNROLL for (int i = 0; i < width; ++i) {
        const int64_t offset = k * b.columns + column + i * V::lanes;
        const auto raw = reach == short_row ? V::load_first(b.x + offset, b.rest) : V::load(b.x + offset);
        const Values v = V::values(raw);
        if constexpr (store) {
          sign[i] = V::positive(raw);
          const auto value = b.activation.template value<V>(raw, sign[i]);
          if (reach == short_row) {
            V::store_first(b.output + offset, value, b.rest);
          } else {
            V::store(b.output + offset, value);
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
          store_row_bits<reach>(b.mask + k * b.mask_columns, column + i * V::lanes, sign[i], b);
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
  JUMPSTART_INLINE static void store_row_bits(uint8_t* mask, int64_t column, Sign sign, const Block& b) {
    if constexpr (reach == whole && kStoresSigns) {
      V::store_signs(mask + column / 8, sign);
      return;
    }
    const uint32_t bits = V::sign_bits(sign);
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
  int64_t grouped_;  // columns in whole groups
  int64_t rows_;     // of a block
  bool stream_;
  Activation activation_;
  bool limited_;
  stat_t margin_;
  bool follows_columns_ = true;  // any of them
  Partial<stat_t>& p_;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
