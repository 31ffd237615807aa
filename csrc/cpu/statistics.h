// From the results of the tasks to the operator's extrema, indices and slack sums.

#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "cpu/kernels.h"
#include "options.h"
#include "slack.h"

namespace jumpstart {

// Memory for the operator's statistics: maxima, then minima, of the units and then the points.
template <typename stat_t>
struct Statistics {
  int64_t units, count;  // count: units + points
  stat_t* extrema;       // [2, count]
  int64_t* indices;      // [2, count]
  stat_t* sums;          // [2, kSlackSums]
};

inline KnownPlaces known_places(const Layout& layout, bool position_points) {
  constexpr int64_t kFewColumns = 8;
  // In channels_last an earlier unit may have it further on.
  if (layout.rows_per_point(position_points) > 1) {
    return layout.channels_last ? KnownPlaces::none : KnownPlaces::starts;
  }
  return layout.inner == 1 && layout.units < kFewColumns ? KnownPlaces::elements : KnownPlaces::none;
}

// The tasks of a forward, with memory for their results.
template <typename stat_t>
class Tasks {
 public:
  // One per thread, or more if the offsets within a task would not fit into 32 bits.
  // allocate(bytes) returns the memory, which must outlive them and begins with a cache line.
  template <typename Allocate>
  Tasks(const Layout& layout, bool position_points, int64_t threads, const Statistics<stat_t>& statistics,
        const Allocate& allocate) {
    constexpr int64_t kRows = 16, kPadding = 16;  // whole blocks of rows, cache lines
    constexpr int64_t kMostRows = int64_t{1} << 30;
    const int64_t rows = layout.matrix_rows();
    const bool across = layout.points_across(position_points);
    const int64_t step = across ? layout.units : layout.inner == 1 ? kRows : 1;
    const int64_t steps = (rows + step - 1) / step;
    const int64_t units = (layout.units + kPadding - 1) / kPadding * kPadding;
    const int64_t needed = (rows + kMostRows - 1) / kMostRows;
    const int64_t count = std::min(std::max(threads, needed), steps);
    partials_.resize(static_cast<size_t>(count));
    constexpr size_t kBytesPerUnit = 4 * sizeof(stat_t) + 2 * sizeof(int32_t) + sizeof(uint8_t);
    auto* const values = static_cast<stat_t*>(allocate(static_cast<size_t>(units * count) * kBytesPerUnit));
    auto* const unit_at = reinterpret_cast<int32_t*>(values + 4 * units * count);
    auto* const follows = reinterpret_cast<uint8_t*>(unit_at + 2 * units * count);
    const bool knows_places = known_places(layout, position_points) != KnownPlaces::none;
    for (int64_t t = 0; t < count; ++t) {
      Partial<stat_t>& p = partials_[static_cast<size_t>(t)];
      p.begin = steps * t / count * step;
      p.end = std::min(steps * (t + 1) / count * step, rows);
      p.unit_max = values + 4 * t * units, p.unit_min = p.unit_max + units;
      p.chunk_max = p.unit_min + units, p.chunk_min = p.chunk_max + units;
      p.unit_max_at = unit_at + 2 * t * units, p.unit_min_at = p.unit_max_at + units;
      p.follows = follows + t * units;
      p.point_max = statistics.extrema + statistics.units, p.point_min = p.point_max + statistics.count;
      if (knows_places) {
        p.point_max_element = statistics.indices + statistics.units;
        p.point_min_element = p.point_max_element + statistics.count;
      }
      p.continues = !across && p.begin % layout.rows_per_point(position_points) != 0;
    }
  }

  std::vector<Partial<stat_t>>& partials() { return partials_; }

 private:
  std::vector<Partial<stat_t>> partials_;
};

// Merges the results of the tasks, without branches in the loop over units.
template <typename stat_t>
void merge(const std::vector<Partial<stat_t>>& partials, const Forward& f,
           const Statistics<stat_t>& statistics) {
  stat_t *maxima = statistics.extrema, *minima = maxima + statistics.count;
  const Partial<stat_t>& first = partials.front();
  std::copy_n(first.unit_max, statistics.units, maxima);
  std::copy_n(first.unit_min, statistics.units, minima);
  const int64_t rows_per_point = f.layout.rows_per_point(f.position_points);
  for (size_t t = 1; t < partials.size(); ++t) {
    const Partial<stat_t>& p = partials[t];
    for (int64_t c = 0; c < statistics.units; ++c) {
      const stat_t high = p.unit_max[c], low = p.unit_min[c];
      maxima[c] = (high > maxima[c]) | (high != high) ? high : maxima[c];
      minima[c] = (low < minima[c]) | (low != low) ? low : minima[c];
    }
    if (p.continues) {
      const int64_t point = p.begin / rows_per_point;
      if (above(p.head_max, p.point_max[point])) {
        p.point_max[point] = p.head_max;
        if (p.point_max_element) p.point_max_element[point] = p.head_max_element;
      }
      if (below(p.head_min, p.point_min[point])) {
        p.point_min[point] = p.head_min;
        if (p.point_min_element) p.point_min_element[point] = p.head_min_element;
      }
    }
  }
}

// Finds the element of an extremum by its value. This is done after the pass over the tensor since usually
// only the few with slack are needed. A search ends in any case: a thread that flushes subnormal numbers
// forms other sums with the bias than one that does not.
template <typename scalar_t, typename stat_t>
class Finder {
 public:
  // `search` is Kernels::search of scalar_t.
  Finder(const Forward& f, const std::vector<Partial<stat_t>>& partials,
         int64_t (*search)(const void*, const void*, bool, int64_t, double, bool))
      : x_(static_cast<const scalar_t*>(f.x)),
        bias_(static_cast<const stat_t*>(f.bias)),
        search_(search),
        layout_(f.layout),
        position_points_(f.position_points),
        partials_(partials) {}

  int64_t of_unit(int64_t unit, stat_t value, bool maximum) const {
    const int64_t columns = layout_.matrix_columns();
    for (const Partial<stat_t>& p : partials_) {
      const int32_t at = (maximum ? p.unit_max_at : p.unit_min_at)[unit];
      if (at < 0 || !same((maximum ? p.unit_max : p.unit_min)[unit], value)) continue;
      if (layout_.inner > 1) {
        const int64_t begin = ((p.begin / layout_.units + at) * layout_.units + unit) * columns;
        return found_or(begin, first(begin, begin + columns, value, maximum), begin + columns);
      }
      int64_t row = p.begin + at;
      while (row + 1 < p.end && !same(at_place(row * columns + unit, unit), value)) ++row;
      return logical(row, unit);
    }
    return -1;  // unreachable: one of the tasks has it
  }

  // `from`: where to begin, if it is not negative.
  int64_t of_point(int64_t point, stat_t value, bool maximum, int64_t from) const {
    const int64_t columns = layout_.matrix_columns();
    if (layout_.points_across(position_points_)) {
      int64_t place = point / layout_.inner * layout_.units * layout_.inner + point % layout_.inner;
      int64_t unit = 0;
      for (; unit + 1 < layout_.units && !same(at_place(place, unit), value); ++unit) place += layout_.inner;
      return place;
    }
    const int64_t rows = layout_.rows_per_point(position_points_), row = point * rows;
    if (!layout_.channels_last || rows == 1) {
      const int64_t begin = from < 0 ? row * columns : from, end = (row + rows) * columns;
      const int64_t place = found_or(begin, first(begin, end, value, maximum), end);
      return layout_.channels_last ? logical(row, place - row * columns) : place;
    }
    int64_t unit = columns, best_row = row;  // in logical order units come before positions
    for (int64_t r = row; r < row + rows && unit > 0; ++r) {
      const int64_t column = first(r * columns, r * columns + unit, value, maximum) - r * columns;
      if (column < unit) unit = column, best_row = r;
    }
    return logical(best_row, unit < columns ? unit : 0);
  }

  // From elements of the matrix to indices, of points that are rows.
  void to_logical(const Statistics<stat_t>& statistics) const {
    for (int64_t k = statistics.units; k < statistics.count; ++k) {
      for (int64_t* index : {statistics.indices + k, statistics.indices + statistics.count + k}) {
        if (*index >= 0) *index = logical(k - statistics.units, *index % layout_.units);
      }
    }
  }

 private:
  // Index in the flattened tensor of a matrix element.
  int64_t logical(int64_t row, int64_t column) const {
    if (!layout_.channels_last) return row * layout_.matrix_columns() + column;
    return (row / layout_.rows * layout_.units + column) * layout_.rows + row % layout_.rows;
  }

  // With the bias of its unit, if there is one.
  stat_t at_place(int64_t place, int64_t unit) const {
    const auto x = static_cast<stat_t>(x_[place]);
    return bias_ ? static_cast<stat_t>(static_cast<scalar_t>(x + bias_[unit])) : x;
  }

  static int64_t found_or(int64_t other, int64_t found, int64_t end) { return found < end ? found : other; }

  // The first of the matrix elements [begin, end) with this value, their extremum, or `end`.
  int64_t first(int64_t begin, int64_t end, stat_t value, bool maximum) const {
    if (!bias_) return begin + search_(x_ + begin, nullptr, false, end - begin, value, maximum);
    const int64_t columns = layout_.matrix_columns();
    while (begin < end) {  // by row, each of which has its bias
      const int64_t row = begin / columns, length = std::min((row + 1) * columns, end) - begin;
      const bool planes = layout_.inner > 1;
      const stat_t* bias = bias_ + (planes ? row % layout_.units : begin % columns);
      const int64_t found = search_(x_ + begin, bias, planes, length, value, maximum);
      if (found < length) return begin + found;
      begin += length;
    }
    return end;
  }

  const scalar_t* x_;
  const stat_t* bias_;
  int64_t (*search_)(const void*, const void*, bool, int64_t, double, bool);
  const Layout& layout_;
  bool position_points_;
  const std::vector<Partial<stat_t>>& partials_;
};

// The extrema [begin, end).
template <typename stat_t>
Extrema<stat_t> extrema_of(const Statistics<stat_t>& s, int64_t begin, int64_t end, stat_t margin) {
  stat_t* const maxima = s.extrema + begin;
  int64_t* const max_indices = s.indices + begin;
  return {end - begin, maxima, maxima + s.count, max_indices, max_indices + s.count, margin};
}

}  // namespace jumpstart
