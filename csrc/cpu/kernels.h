// The CPU kernels, free of PyTorch: compiled once for each instruction set, chosen at run time.
//
// An activation is a matrix in memory (Layout of kernels/layout.py): with inner == 1 its rows are positions
// and its columns units ("rows"); with inner > 1 its rows are planes of one unit ("planes"). A task takes a
// range of matrix rows, writes output and mask, and leaves in a Partial what it found of the extrema.

#pragma once

#include <cstdint>

#include "layout.h"

namespace jumpstart {

struct Forward {
  const void* x;
  void* output;   // null: statistics alone
  uint8_t* mask;  // [matrix_rows, mask_columns]
  Layout layout;
  bool position_points;
};

// Extrema of the matrix rows [begin, end), and where to look for them. stat_t is float, or double for double.
template <typename stat_t>
struct Partial {
  int64_t begin, end;
  stat_t *unit_max, *unit_min;         // [units], padded to whole vectors
  int32_t *unit_max_at, *unit_min_at;  // [units], matrix row, or block of row_block rows, counted from begin
  int64_t first_point, points;         // those that the range touches
  stat_t *point_max, *point_min;       // [points]
  int64_t *point_max_at, *point_min_at;  // [points], matrix row; for positions of planes the unit
};

struct Backward {
  const void* grad_output;
  const uint8_t* mask;
  void* grad_x;
  Layout layout;
};

struct Kernels {
  int64_t row_block;                                  // rows that unit_*_at counts as one where inner == 1
  int64_t padding;                                    // unit arrays are a multiple of this long
  void (*forward[4])(const Forward&, void* partial);  // in the order of Scalar
  void (*backward[4])(const Backward&, int64_t begin, int64_t end);
};

const Kernels& kernels_default();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();

// Whether a value takes the place of an extremum found before it: NaN wins and stays, equals do not.
template <typename stat_t>
JUMPSTART_INLINE bool above(stat_t value, stat_t best) {
  return value > best || (value != value && best == best);
}
template <typename stat_t>
JUMPSTART_INLINE bool below(stat_t value, stat_t best) {
  return value < best || (value != value && best == best);
}
template <typename stat_t>
JUMPSTART_INLINE bool same(stat_t a, stat_t b) {
  return a == b || (a != a && b != b);
}

}  // namespace jumpstart
