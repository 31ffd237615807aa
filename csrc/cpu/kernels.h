// The CPU kernels, free of PyTorch: compiled once for each instruction set, chosen at run time.
//
// An activation is a matrix in memory (Layout of ops/layout.py): with inner == 1 its rows are positions
// and its columns units ("rows"); with inner > 1 its rows are planes of one unit ("planes"). A task takes a
// range of matrix rows, writes output and mask, and leaves in a Partial what it found of the extrema.

#pragma once

#include <cstdint>

#include "activations.h"
#include "layout.h"

namespace jumpstart {

struct Forward {
  const void* x;
  void* output;
  uint8_t* mask;  // [matrix_rows, mask_columns]
  Layout layout;
  bool position_points;
  bool stream;       // store the output past the caches; it is aligned, and so is every vector of it
  double parameter;  // of the activation
};

// Extrema of the matrix rows [begin, end). stat_t is float, or double for double.
template <typename stat_t>
struct Partial {
  int64_t begin, end;
  stat_t *unit_max, *unit_min;    // [units], padded to whole vectors
  stat_t *chunk_max, *chunk_min;  // [units] likewise, for a kernel's own use
  // [units], where to look for it, counted from begin: the matrix row from which on; with inner > 1 the group
  // of planes, one of each unit. -1: nowhere.
  int32_t *unit_max_at, *unit_min_at;
  stat_t *point_max, *point_min;  // of all points: a task writes those whose first row it has
  bool continues;                 // its first row belongs to a point that an earlier task began
  stat_t head_max, head_min;      // of that point

  // Where the extrema go of the point that a row of this task belongs to.
  JUMPSTART_INLINE stat_t* max_of(int64_t point, int64_t row) {
    return continues && row == begin ? &head_max : point_max + point;
  }
  JUMPSTART_INLINE stat_t* min_of(int64_t point, int64_t row) {
    return continues && row == begin ? &head_min : point_min + point;
  }
};

struct Backward {
  const void* grad_output;
  const uint8_t* mask;
  void* grad_x;
  Layout layout;
  bool stream;
  double parameter;  // of the activation
};

// The kernels of an activation, in the order of Scalar.
struct ActivationKernels {
  void (*forward[4])(const Forward&, void* partial);
  void (*backward[4])(const Backward&, int64_t begin, int64_t end);
  // Output and mask of matrix rows [begin, end), without statistics; x is the output.
  void (*inplace[4])(const Forward&, int64_t begin, int64_t end);
};

// In the order of ActivationKind; statistics alone have a forward, and no output in it.
struct Kernels {
  ActivationKernels of[kActivations + 1];
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
