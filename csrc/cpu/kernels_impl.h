// The kernels themselves, included once by each instruction set's file after its vectors.

#include <limits>

#include "cpu/kernels.h"

// What is kept for each row of a block stays in registers only if these loops are gone.
#define JUMPSTART_UNROLL _Pragma("GCC unroll 16")

namespace jumpstart {
namespace JUMPSTART_ISA {

// Follows the points of a range of matrix rows, told row by row in ascending order.
template <typename stat_t>
class PointTracker {
 public:
  PointTracker(const Forward& f, Partial<stat_t>& partial)
      : partial_(partial),
        rows_per_point_(f.position_points ? 1 : f.layout.rows_per_sample()),
        point_(partial.begin / rows_per_point_ - partial.first_point),
        left_(rows_per_point_ - partial.begin % rows_per_point_) {
    for (int64_t i = 0; i < partial.points; ++i) partial.point_max_at[i] = partial.point_min_at[i] = -1;
  }

  // `first_column(row, value)` finds the first column of a row that holds a value: where rows of a point are
  // not in logical order (channels_last), it decides between rows that tie.
  template <typename FirstColumn>
  void add(int64_t row, stat_t largest, stat_t smallest, bool columns_first, FirstColumn first_column) {
    Partial<stat_t>& p = partial_;
    if (above(largest, p.point_max[point_]) || p.point_max_at[point_] < 0) {
      p.point_max[point_] = largest;
      p.point_max_at[point_] = row;
    } else if (columns_first && same(largest, p.point_max[point_]) &&
               first_column(row, largest) < first_column(p.point_max_at[point_], largest)) {
      p.point_max_at[point_] = row;
    }
    if (below(smallest, p.point_min[point_]) || p.point_min_at[point_] < 0) {
      p.point_min[point_] = smallest;
      p.point_min_at[point_] = row;
    } else if (columns_first && same(smallest, p.point_min[point_]) &&
               first_column(row, smallest) < first_column(p.point_min_at[point_], smallest)) {
      p.point_min_at[point_] = row;
    }
    if (--left_ == 0) {
      ++point_;
      left_ = rows_per_point_;
    }
  }

 private:
  Partial<stat_t>& partial_;
  int64_t rows_per_point_, point_, left_;
};

template <typename scalar_t>
class Rows {  // inner == 1: columns are units
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;

 public:
  Rows(const Forward& f, Partial<stat_t>& partial)
      : x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        columns_(f.layout.units),
        mask_columns_(f.layout.mask_columns()),
        columns_first_(f.layout.channels_last && !f.position_points && f.layout.rows > 1),
        forward_(f),
        p_(partial) {}

  void run() {
    clear();
    PointTracker<stat_t> points(forward_, p_);
    uint32_t nan = 0;
    int64_t row = p_.begin;
    for (; row + kRowBlock <= p_.end; row += kRowBlock) nan |= block<kRowBlock>(row, points);
    for (; row < p_.end; ++row) nan |= block<1>(row, points);
    if (nan) exact();
  }

 private:
  void clear() {
    for (int64_t c = 0; c < columns_; ++c) {
      p_.unit_max[c] = -std::numeric_limits<stat_t>::infinity();
      p_.unit_min[c] = std::numeric_limits<stat_t>::infinity();
      p_.unit_max_at[c] = p_.unit_min_at[c] = 0;
    }
  }

  // A block of matrix rows, read once: outputs, mask bits, extrema of its rows and of its columns.
  template <int count>
  uint32_t block(int64_t row, PointTracker<stat_t>& points) {
    Values row_max[count], row_min[count];
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      row_max[k] = V::broadcast(-std::numeric_limits<stat_t>::infinity());
      row_min[k] = V::broadcast(std::numeric_limits<stat_t>::infinity());
    }
    const int32_t at = static_cast<int32_t>((row - p_.begin) / kRowBlock);
    uint32_t nan = 0;
    int64_t column = 0;
    for (; column + V::lanes <= columns_; column += V::lanes) {
      nan |= vectors<count, false>(row, column, V::lanes, at, row_max, row_min);
    }
    if (column < columns_) {
      nan |= vectors<count, true>(row, column, static_cast<int>(columns_ - column), at, row_max, row_min);
    }
    const auto find = [this](int64_t r, stat_t value) { return first_column(r, value); };
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      points.add(row + k, V::largest(row_max[k]), V::smallest(row_min[k]), columns_first_, find);
    }
    return nan;
  }

  template <int count, bool tail>
  inline uint32_t vectors(int64_t row, int64_t column, int width, int32_t at, Values* row_max,
                          Values* row_min) {
    Values column_max, column_min, previous{};
    uint32_t nan = 0;
    JUMPSTART_UNROLL for (int k = 0; k < count; ++k) {
      const int64_t offset = (row + k) * columns_ + column;
      const auto raw = tail ? V::load_first(x_ + offset, width) : V::load(x_ + offset);
      const Values v = V::values(raw);
      if (output_) {
        uint32_t bits = V::positive(v);
        if (tail) {
          bits &= (1u << width) - 1;
          V::store_first_where_set(output_ + offset, raw, bits, width);
        } else {
          V::store_where_set(output_ + offset, raw, bits);
        }
        V::store_mask(mask_ + (row + k) * mask_columns_ + column / 8, bits,
                      tail ? (width + 7) / 8 : V::lanes / 8);
      }
      row_max[k] = V::max(row_max[k], v);
      row_min[k] = V::min(row_min[k], v);
      column_max = k ? V::max(column_max, v) : v;
      column_min = k ? V::min(column_min, v) : v;
      if (k % 2) {
        nan |= V::unordered(previous, v);
      } else if (k == count - 1) {
        nan |= V::unordered(v, v);
      }
      previous = v;
    }
    const Values unit_max = V::load_values(p_.unit_max + column),
                 unit_min = V::load_values(p_.unit_min + column);
    // Seldom after the first blocks: a branch costs less than a masked store.
    const uint32_t higher = V::less(unit_max, column_max), lower = V::less(column_min, unit_min);
    if (higher) V::store_where(p_.unit_max_at + column, higher, at);
    if (lower) V::store_where(p_.unit_min_at + column, lower, at);
    V::store_values(p_.unit_max + column, V::max(unit_max, column_max));
    V::store_values(p_.unit_min + column, V::min(unit_min, column_min));
    return nan;
  }

  int64_t first_column(int64_t row, stat_t value) const {
    const scalar_t* values = x_ + row * columns_;
    int64_t column = 0;
    while (!same(static_cast<stat_t>(to_float(values[column])), value)) ++column;
    return column;
  }

  // The same extrema one value after the other, for a range that holds a NaN, which vectors lose.
  void exact() {
    clear();
    PointTracker<stat_t> points(forward_, p_);
    const auto find = [this](int64_t r, stat_t value) { return first_column(r, value); };
    for (int64_t row = p_.begin; row < p_.end; ++row) {
      const int32_t at = static_cast<int32_t>((row - p_.begin) / kRowBlock);
      const scalar_t* values = x_ + row * columns_;
      stat_t largest = to_float(values[0]), smallest = largest;
      for (int64_t c = 0; c < columns_; ++c) {
        const stat_t v = to_float(values[c]);
        if (above(v, largest)) largest = v;
        if (below(v, smallest)) smallest = v;
        if (above(v, p_.unit_max[c])) p_.unit_max[c] = v, p_.unit_max_at[c] = at;
        if (below(v, p_.unit_min[c])) p_.unit_min[c] = v, p_.unit_min_at[c] = at;
      }
      points.add(row, largest, smallest, columns_first_, find);
    }
  }

  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t columns_, mask_columns_;
  bool columns_first_;
  const Forward& forward_;
  Partial<stat_t>& p_;
};

template <typename scalar_t>
class Planes {  // inner > 1: a matrix row is a plane of one unit
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;
  using Values = typename V::Values;
  static constexpr int kUnroll = 4;

 public:
  Planes(const Forward& f, Partial<stat_t>& partial)
      : x_(static_cast<const scalar_t*>(f.x)),
        output_(static_cast<scalar_t*>(f.output)),
        mask_(f.mask),
        inner_(f.layout.inner),
        mask_columns_(f.layout.mask_columns()),
        units_(f.layout.units),
        forward_(f),
        p_(partial) {}

  void run() {
    for (int64_t c = 0; c < units_; ++c) p_.unit_max_at[c] = p_.unit_min_at[c] = -1;
    PointTracker<stat_t> points(forward_, p_);
    const auto never = [](int64_t, stat_t) { return int64_t{0}; };
    int64_t unit = p_.begin % units_;
    for (int64_t plane = p_.begin; plane < p_.end; ++plane) {
      stat_t largest, smallest;
      scan(plane, largest, smallest);
      const int32_t at = static_cast<int32_t>(plane - p_.begin);
      if (p_.unit_max_at[unit] < 0 || above(largest, p_.unit_max[unit])) {
        p_.unit_max[unit] = largest;
        p_.unit_max_at[unit] = at;
      }
      if (p_.unit_min_at[unit] < 0 || below(smallest, p_.unit_min[unit])) {
        p_.unit_min[unit] = smallest;
        p_.unit_min_at[unit] = at;
      }
      if (forward_.position_points) {
        positions(plane, unit);
      } else {
        points.add(plane, largest, smallest, false, never);
      }
      if (++unit == units_) unit = 0;
    }
  }

 private:
  void scan(int64_t plane, stat_t& largest, stat_t& smallest) {
    Values max[kUnroll], min[kUnroll];
    JUMPSTART_UNROLL for (int k = 0; k < kUnroll; ++k) {
      max[k] = V::broadcast(-std::numeric_limits<stat_t>::infinity());
      min[k] = V::broadcast(std::numeric_limits<stat_t>::infinity());
    }
    uint32_t nan = 0;
    int64_t column = 0;
    for (; column + kUnroll * V::lanes <= inner_; column += kUnroll * V::lanes) {
      JUMPSTART_UNROLL for (int k = 0; k < kUnroll; ++k) {
        nan |= vector<false>(plane, column + k * V::lanes, V::lanes, max[k], min[k]);
      }
    }
    for (; column + V::lanes <= inner_; column += V::lanes) {
      nan |= vector<false>(plane, column, V::lanes, max[0], min[0]);
    }
    if (column < inner_)
      nan |= vector<true>(plane, column, static_cast<int>(inner_ - column), max[0], min[0]);
    if (nan) {
      largest = smallest = std::numeric_limits<stat_t>::quiet_NaN();
      return;
    }
    JUMPSTART_UNROLL for (int k = 1; k < kUnroll; ++k) {
      max[0] = V::max(max[0], max[k]);
      min[0] = V::min(min[0], min[k]);
    }
    largest = V::largest(max[0]);
    smallest = V::smallest(min[0]);
  }

  template <bool tail>
  inline uint32_t vector(int64_t plane, int64_t column, int width, Values& max, Values& min) {
    const int64_t offset = plane * inner_ + column;
    const auto raw = tail ? V::load_first(x_ + offset, width) : V::load(x_ + offset);
    const Values v = V::values(raw);
    if (output_) {
      uint32_t bits = V::positive(v);
      if (tail) {
        bits &= (1u << width) - 1;
        V::store_first_where_set(output_ + offset, raw, bits, width);
      } else {
        V::store_where_set(output_ + offset, raw, bits);
      }
      V::store_mask(mask_ + plane * mask_columns_ + column / 8, bits, tail ? (width + 7) / 8 : V::lanes / 8);
    }
    max = V::max(max, v);
    min = V::min(min, v);
    return V::unordered(v, v);
  }

  // Position points lie across the planes of a row of units: the plane is still in cache.
  void positions(int64_t plane, int64_t unit) {
    const scalar_t* values = x_ + plane * inner_;
    const int64_t first = plane / units_ * inner_ - p_.first_point;
    for (int64_t i = 0; i < inner_; ++i) {
      const stat_t v = to_float(values[i]);
      if (unit == 0 || above(v, p_.point_max[first + i])) {
        p_.point_max[first + i] = v;
        p_.point_max_at[first + i] = unit;
      }
      if (unit == 0 || below(v, p_.point_min[first + i])) {
        p_.point_min[first + i] = v;
        p_.point_min_at[first + i] = unit;
      }
    }
  }

  const scalar_t* x_;
  scalar_t* output_;
  uint8_t* mask_;
  int64_t inner_, mask_columns_, units_;
  const Forward& forward_;
  Partial<stat_t>& p_;
};

template <typename scalar_t>
void forward(const Forward& f, void* partial) {
  auto& p = *static_cast<Partial<typename VectorOf<scalar_t>::stat_t>*>(partial);
  if (f.layout.inner == 1) {
    Rows<scalar_t>(f, p).run();
  } else {
    Planes<scalar_t>(f, p).run();
  }
}

// Matrix rows [begin, end) of the gradient, through the mask.
template <typename scalar_t>
void backward(const Backward& b, int64_t begin, int64_t end) {
  using V = VectorOf<scalar_t>;
  const int64_t columns = b.layout.matrix_columns(), mask_columns = b.layout.mask_columns();
  for (int64_t row = begin; row < end; ++row) {
    const auto* from = static_cast<const scalar_t*>(b.grad_output) + row * columns;
    auto* to = static_cast<scalar_t*>(b.grad_x) + row * columns;
    const uint8_t* mask = b.mask + row * mask_columns;
    int64_t column = 0;
    for (; column + V::lanes <= columns; column += V::lanes) {
      V::store_where_set(to + column, V::load(from + column), V::load_mask(mask + column / 8, V::lanes / 8));
    }
    if (column < columns) {
      const int width = static_cast<int>(columns - column);
      const uint32_t bits = V::load_mask(mask + column / 8, (width + 7) / 8);
      V::store_first_where_set(to + column, V::load_first(from + column, width), bits, width);
    }
  }
}

static const Kernels table = {
    kRowBlock,
    16,
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {backward<float>, backward<double>, backward<Half>, backward<BFloat16>},
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
