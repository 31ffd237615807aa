// From what each task found to the operator's extrema, indices and slack sums.

#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/kernels.h"

namespace jumpstart {

// The tasks a forward is split into, with the memory for what they find.
template <typename stat_t>
class Tasks {
 public:
  Tasks(const Layout& layout, bool position_points, int64_t count, const Kernels& kernels) {
    const int64_t rows = layout.matrix_rows();
    // Position points of planes lie across the planes of a row of units, which one task must see whole.
    const bool across = position_points && layout.inner > 1;
    const int64_t step = across ? layout.units : layout.inner == 1 ? kernels.row_block : 1;
    const int64_t steps = (rows + step - 1) / step;
    const int64_t rows_per_point = position_points ? 1 : layout.rows_per_sample();
    const int64_t units = (layout.units + kernels.padding - 1) / kernels.padding * kernels.padding;
    const auto points = [&](const Partial<stat_t>& p) {
      if (across) return (p.end - p.begin) / layout.units * layout.inner;
      return (p.end - 1) / rows_per_point - p.first_point + 1;
    };
    count = std::min(count, steps);
    partials_.resize(static_cast<size_t>(count));
    int64_t total_points = 0;
    for (int64_t t = 0; t < count; ++t) {
      Partial<stat_t>& p = partials_[static_cast<size_t>(t)];
      p.begin = steps * t / count * step;
      p.end = std::min(steps * (t + 1) / count * step, rows);
      p.first_point = across ? p.begin / layout.units * layout.inner : p.begin / rows_per_point;
      p.points = points(p);
      total_points += p.points;
    }
    values_.reset(new stat_t[static_cast<size_t>(2 * (units * count + total_points))]);
    unit_at_.reset(new int32_t[static_cast<size_t>(2 * units * count)]);
    point_at_.reset(new int64_t[static_cast<size_t>(2 * total_points)]);
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
      p.point_max = take(value, p.points), p.point_min = take(value, p.points);
      p.point_max_at = take(point_at, p.points), p.point_min_at = take(point_at, p.points);
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

// Merges the tasks, in order, so that among equals the first stays. `extrema` [2, C + P] gets the values,
// `rows` [2, C + P] the matrix row that holds each (for position points of planes, the unit).
template <typename scalar_t, typename stat_t>
void merge(const std::vector<Partial<stat_t>>& partials, const Forward& f, int64_t row_block, int64_t count,
           const Finder<scalar_t, stat_t>& find, stat_t* extrema, int64_t* rows) {
  const Layout& layout = f.layout;
  const bool columns_first = layout.channels_last && !f.position_points && layout.rows > 1;
  if (layout.inner > 1) row_block = 1;
  std::fill(rows, rows + 2 * count, int64_t{-1});
  const auto merge_side = [&](stat_t* best, int64_t* at, bool maxima) {
    const auto better = [maxima](stat_t a, stat_t b) { return maxima ? above(a, b) : below(a, b); };
    for (const Partial<stat_t>& p : partials) {
      const stat_t* unit = maxima ? p.unit_max : p.unit_min;
      const int32_t* unit_at = maxima ? p.unit_max_at : p.unit_min_at;
      for (int64_t c = 0; c < layout.units; ++c) {
        if (unit_at[c] >= 0 && (at[c] < 0 || better(unit[c], best[c]))) {
          best[c] = unit[c];
          at[c] = p.begin + unit_at[c] * row_block;
        }
      }
      const stat_t* point = maxima ? p.point_max : p.point_min;
      const int64_t* point_at = maxima ? p.point_max_at : p.point_min_at;
      for (int64_t i = 0; i < p.points; ++i) {
        const int64_t k = layout.units + p.first_point + i;
        const bool ahead = at[k] < 0 || better(point[i], best[k]) ||
                           (columns_first && same(point[i], best[k]) &&
                            find.first_column(point_at[i], point[i]) < find.first_column(at[k], best[k]));
        if (ahead) {
          best[k] = point[i];
          at[k] = point_at[i];
        }
      }
    }
  };
  merge_side(extrema, rows, true);
  merge_side(extrema + count, rows + count, false);
}

// Slack of every extremum into `sums` [2, 5], and `rows` into the indices of those that are asked for.
template <typename scalar_t, typename stat_t>
void finish(const Forward& f, int64_t count, stat_t margin, bool all_indices,
            const Finder<scalar_t, stat_t>& find, const stat_t* extrema, int64_t* rows, stat_t* sums) {
  const Layout& layout = f.layout;
  double totals[2][5] = {};
  const auto slack = [](stat_t s) { return s > 0 || s != s ? s : stat_t{0}; };
  const auto locate = [&](int64_t k, int64_t row, stat_t value) {
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
  for (int64_t k = 0; k < count; ++k) {
    const stat_t maximum = extrema[k], minimum = extrema[count + k];
    const stat_t positive = slack(margin - maximum), negative = slack(margin + minimum);
    double* total = totals[k < layout.units ? 0 : 1];
    if (positive != 0) {
      total[0] += positive;
      total[2] += static_cast<double>(positive) * positive;
    }
    if (negative != 0) {
      total[1] += negative;
      total[3] += static_cast<double>(negative) * negative;
      if (positive != 0) total[4] += static_cast<double>(positive) * negative;
    }
    rows[k] = all_indices || positive != 0 ? locate(k, rows[k], maximum) : -1;
    rows[count + k] = all_indices || negative != 0 ? locate(k, rows[count + k], minimum) : -1;
  }
  for (int axis = 0; axis < 2; ++axis) {
    for (int i = 0; i < 5; ++i) sums[axis * 5 + i] = static_cast<stat_t>(totals[axis][i]);
  }
}

}  // namespace jumpstart
