// Layouts with inner == 1: a matrix row is a position, its columns are units. The rows of a task, in chunks.

#pragma once

#include <cstdint>
#include <limits>

#include "cpu/bias.h"
#include "cpu/exact.h"
#include "cpu/kernels.h"
#include "cpu/row_blocks.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation, bool with_bias>
class Rows {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  using Mask = typename V::Mask;
  using Blocks = RowBlocks<scalar_t, Activation, with_bias>;

  static constexpr bool store = has_output<Activation>;

  // Rows per chunk: unit extrema are located to a chunk, which is then searched.
  static constexpr int64_t kChunk = Blocks::kMostRows;

 public:
  Rows(const Forward& f, Partial<stat_t>& partial)
      : forward_(f),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        columns_(f.layout.units),
        mask_columns_(f.layout.mask_columns()),
        rows_per_point_(f.layout.rows_per_point(f.position_points)),
        activation_(f.parameter),
        limited_(f.limited),
        margin_(static_cast<stat_t>(f.margin)),
        p_(partial),
        blocks_(f, partial) {}

  void run() {
    for (int64_t group = 0; group * Blocks::kGroup < columns_; ++group) p_.follows[group] = 1;
    clear(p_.unit_max, p_.unit_min);
    for (int64_t c = 0; c < columns_; ++c) p_.unit_max_at[c] = p_.unit_min_at[c] = 0;
    Mask nan = V::none();  // lanes with a NaN, or with infinities of both signs
    for (int64_t row = p_.begin; row < p_.end;) {
      const int64_t begin = row, end = row + kChunk < p_.end ? row + kChunk : p_.end;
      if (blocks_.follows_columns) clear(p_.chunk_max, p_.chunk_min);
      while (row < end) {
        const Mask found = rows_per_point_ == 1 ? points(row, end) : part_of_point(row, end);
        nan = V::either(nan, found);
      }
      if (blocks_.follows_columns) merge_chunk(begin);
      if constexpr (!store) run_linked(forward_, begin, end);
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
      const RowInput<scalar_t, with_bias> values(forward_, row);
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
      count = end - next < blocks_.rows ? end - next : blocks_.rows;
      for (int64_t k = 0; blocks_.grouped && k < count; ++k) Blocks::start(max[k], min[k]);
      blocks_.groups(next, count, max, min, 1, sum_of_groups);
      int64_t k = 0;
      for (; k + 4 <= count; k += 4) {
        Values largest[4], smallest[4];
        so_far<4>(max + k, min + k, largest, smallest);
        JUMPSTART_UNROLL for (int i = 0; i < 4; i += kRowBlock) {
          blocks_.template rest<kRowBlock>(next + k + i, largest + i, smallest + i, sum);
        }
        V::largest(largest, p_.point_max + next + k);
        V::smallest(smallest, p_.point_min + next + k);
      }
      for (; k < count; ++k) {
        Values largest[1], smallest[1];
        so_far<1>(max + k, min + k, largest, smallest);
        blocks_.template rest<1>(next + k, largest, smallest, sum);
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
  JUMPSTART_INLINE void so_far(const Values* max, const Values* min, Values* largest,
                               Values* smallest) const {
    if (blocks_.grouped) {
      JUMPSTART_UNROLL for (int i = 0; i < count; ++i) largest[i] = max[i], smallest[i] = min[i];
    } else {
      JUMPSTART_UNROLL for (int i = 0; i < count; ++i) Blocks::start(largest[i], smallest[i]);
    }
  }

  // Finds the elements of the extrema of a point that is a row of few columns.
  void locate(int64_t row) {
    const RowInput<scalar_t, with_bias> values(forward_, row);
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
    Blocks::start(max, min);
    JUMPSTART_UNROLL for (int i = 0; i < kRowBlock; ++i) Blocks::start(largest[i], smallest[i]);
    for (int64_t count; next < end; next += count) {
      count = end - next < blocks_.rows ? end - next : blocks_.rows;
      blocks_.groups(next, count, &max, &min, 0, sum_of_groups);
      int64_t k = 0;
      for (; k + kRowBlock <= count; k += kRowBlock)
        blocks_.template rest<kRowBlock>(next + k, largest, smallest, sum);
      for (; k < count; ++k) blocks_.template rest<1>(next + k, largest, smallest, sum);
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
    blocks_.follows_columns = blocks_.grouped != columns_;  // what is left after the last group
    for (int64_t group = 0; group * Blocks::kGroup < blocks_.grouped; ++group) {
      if (!p_.follows[group]) continue;
      Mask open = V::none();
      for (int64_t column = group * Blocks::kGroup; column < (group + 1) * Blocks::kGroup;
           column += V::lanes) {
        const Values max = V::load_values(p_.unit_max + column), min = V::load_values(p_.unit_min + column);
        open = V::either(open, outside(max, min));
      }
      p_.follows[group] = V::bits(open) != 0;
      blocks_.follows_columns |= V::bits(open) != 0;
    }
  }

  // The lanes of which an extremum has not reached the margin.
  JUMPSTART_INLINE Mask outside(Values max, Values min) const {
    return V::either(V::less(max, V::broadcast(margin_)), V::less(V::broadcast(-margin_), min));
  }

  const Forward& forward_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t columns_, mask_columns_, rows_per_point_;
  Activation activation_;
  bool limited_;
  stat_t margin_;
  Partial<stat_t>& p_;
  Blocks blocks_;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
