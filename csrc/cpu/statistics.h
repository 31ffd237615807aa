// From what each task found to the operator's extrema, indices and slack sums.

#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/kernels.h"

namespace jumpstart {

// Where the operator's statistics go: maxima, then minima, of the units and behind them the points.
template <typename stat_t>
struct Statistics {
  int64_t count;    // units + points
  stat_t* extrema;  // [2, count]
  // [2, count], first the matrix row of each (for position points of planes the unit), in the end its index.
  int64_t* places;
  stat_t* sums;  // [2, 5]
};

// The tasks a forward is split into, with the memory for what they find.
template <typename stat_t>
class Tasks {
 public:
  Tasks(const Layout& layout, bool position_points, int64_t count, const Kernels& kernels,
        const Statistics<stat_t>& statistics) {
    const int64_t rows = layout.matrix_rows();
    // Position points of planes lie across the planes of a row of units, which one task must see whole.
    const bool across = position_points && layout.inner > 1;
    const int64_t step = across ? layout.units : layout.inner == 1 ? kernels.row_block : 1;
    const int64_t steps = (rows + step - 1) / step;
    const int64_t rows_per_point = position_points ? 1 : layout.rows_per_sample();
    const int64_t units = (layout.units + kernels.padding - 1) / kernels.padding * kernels.padding;
    count = std::min(count, steps);
    partials_.resize(static_cast<size_t>(count));
    int64_t points = 0;
    for (int64_t t = 0; t < count; ++t) {
      Partial<stat_t>& p = partials_[static_cast<size_t>(t)];
      p.begin = steps * t / count * step;
      p.end = std::min(steps * (t + 1) / count * step, rows);
      p.first_point = across ? p.begin / layout.units * layout.inner : p.begin / rows_per_point;
      p.points = across ? (p.end - p.begin) / layout.units * layout.inner
                        : (p.end - 1) / rows_per_point - p.first_point + 1;
      points += p.points;
    }
    if (count == 1) points = 0;  // a task alone writes its points where they belong
    values_.reset(new stat_t[static_cast<size_t>(2 * (units * count + points))]);
    unit_at_.reset(new int32_t[static_cast<size_t>(2 * units * count)]);
    point_at_.reset(points ? new int64_t[static_cast<size_t>(2 * points)] : nullptr);
    stat_t* value = values_.get();
    int32_t* unit_at = unit_at_.get();
    int64_t* point_at = point_at_.get();
    const auto take = [](auto*& from, int64_t length) {
      auto* taken = from;
      from += length;
      return taken;
    };
    for (Partial<stat_t>& p : partials_) {
      p.unit_max = take(value, units), p.unit_min = take(value, units);
      p.unit_max_at = take(unit_at, units), p.unit_min_at = take(unit_at, units);
      if (count == 1) {
        p.point_max = statistics.extrema + layout.units, p.point_min = p.point_max + statistics.count;
        p.point_max_at = statistics.places + layout.units, p.point_min_at = p.point_max_at + statistics.count;
      } else {
        p.point_max = take(value, p.points), p.point_min = take(value, p.points);
        p.point_max_at = take(point_at, p.points), p.point_min_at = take(point_at, p.points);
      }
    }
  }

  std::vector<Partial<stat_t>>& partials() { return partials_; }

 private:
  std::vector<Partial<stat_t>> partials_;
  std::unique_ptr<stat_t[]> values_;
  std::unique_ptr<int32_t[]> unit_at_;
  std::unique_ptr<int64_t[]> point_at_;
};

// Finds an extremum's element from the matrix row (or block of rows) that is known to hold it.
template <typename scalar_t, typename stat_t>
class Finder {
 public:
  Finder(const scalar_t* x, const Layout& layout) : x_(x), layout_(layout) {}

  int64_t first_column(int64_t row, stat_t value) const {
    int64_t column = 0;
    while (!same(at(row, column), value)) ++column;
    return column;
  }
  int64_t first_row(int64_t row, int64_t column, stat_t value) const {
    while (!same(at(row, column), value)) ++row;
    return row;
  }
  // Place in the flattened tensor.
  int64_t index(int64_t row, int64_t column) const {
    if (!layout_.channels_last) return row * layout_.matrix_columns() + column;
    return (row / layout_.rows * layout_.units + column) * layout_.rows + row % layout_.rows;
  }

 private:
  stat_t at(int64_t row, int64_t column) const {
    return static_cast<stat_t>(x_[row * layout_.matrix_columns() + column]);
  }

  const scalar_t* x_;
  const Layout& layout_;
};

// Merges the tasks, in order, so that among equals the first stays.
template <typename scalar_t, typename stat_t>
void merge(const std::vector<Partial<stat_t>>& partials, const Forward& f, int64_t row_block,
           const Finder<scalar_t, stat_t>& find, const Statistics<stat_t>& statistics) {
  const Layout& layout = f.layout;
  const bool columns_first = layout.channels_last && !f.position_points && layout.rows > 1;
  if (layout.inner > 1) row_block = 1;
  const auto merge_side = [&](stat_t* best, int64_t* place, bool maxima) {
    const auto better = [maxima](stat_t a, stat_t b) { return maxima ? above(a, b) : below(a, b); };
    std::fill(place, place + layout.units, int64_t{-1});
    for (const Partial<stat_t>& p : partials) {
      const stat_t* unit = maxima ? p.unit_max : p.unit_min;
      const int32_t* unit_at = maxima ? p.unit_max_at : p.unit_min_at;
      for (int64_t c = 0; c < layout.units; ++c) {
        if (unit_at[c] >= 0 && (place[c] < 0 || better(unit[c], best[c]))) {
          best[c] = unit[c];
          place[c] = p.begin + unit_at[c] * row_block;
        }
      }
    }
    if (partials.size() == 1) return;  // its points are where they belong
    std::fill(place + layout.units, place + statistics.count, int64_t{-1});
    for (const Partial<stat_t>& p : partials) {
      const stat_t* point = maxima ? p.point_max : p.point_min;
      const int64_t* point_at = maxima ? p.point_max_at : p.point_min_at;
      for (int64_t i = 0; i < p.points; ++i) {
        const int64_t k = layout.units + p.first_point + i;
        const bool ahead = place[k] < 0 || better(point[i], best[k]) ||
                           (columns_first && same(point[i], best[k]) &&
                            find.first_column(point_at[i], point[i]) < find.first_column(place[k], best[k]));
        if (ahead) {
          best[k] = point[i];
          place[k] = point_at[i];
        }
      }
    }
  };
  merge_side(statistics.extrema, statistics.places, true);
  merge_side(statistics.extrema + statistics.count, statistics.places + statistics.count, false);
}

// Slack of every extremum into the sums, and matrix rows into the indices of those that are asked for.
template <typename scalar_t, typename stat_t>
void finish(const Forward& f, stat_t margin, bool all_indices, const Finder<scalar_t, stat_t>& find,
            const Statistics<stat_t>& statistics) {
  const Layout& layout = f.layout;
  const stat_t *maxima = statistics.extrema, *minima = maxima + statistics.count;
  int64_t *max_places = statistics.places, *min_places = max_places + statistics.count;
  const auto slack = [](stat_t s) { return s > 0 || s != s ? s : stat_t{0}; };
  const auto index = [&](int64_t k, int64_t row, stat_t value) {
    if (k < layout.units) {
      if (layout.inner > 1) return find.index(row, find.first_column(row, value));
      return find.index(find.first_row(row, k, value), k);
    }
    if (f.position_points && layout.inner > 1) {
      const int64_t position = k - layout.units;
      return find.index(position / layout.inner * layout.units + row, position % layout.inner);
    }
    return find.index(row, find.first_column(row, value));
  };
  const auto finish_axis = [&](int64_t begin, int64_t end, stat_t* sums) {
    double totals[5] = {};
    for (int64_t k = begin; k < end; ++k) {
      const stat_t positive = slack(margin - maxima[k]), negative = slack(margin + minima[k]);
      if (positive != 0) {
        totals[0] += positive;
        totals[2] += static_cast<double>(positive) * positive;
      }
      if (negative != 0) {
        totals[1] += negative;
        totals[3] += static_cast<double>(negative) * negative;
        if (positive != 0) totals[4] += static_cast<double>(positive) * negative;
      }
      max_places[k] = all_indices || positive != 0 ? index(k, max_places[k], maxima[k]) : -1;
      min_places[k] = all_indices || negative != 0 ? index(k, min_places[k], minima[k]) : -1;
    }
    for (int i = 0; i < 5; ++i) sums[i] = static_cast<stat_t>(totals[i]);
  };
  finish_axis(0, layout.units, statistics.sums);
  finish_axis(layout.units, statistics.count, statistics.sums + 5);
}

}  // namespace jumpstart
