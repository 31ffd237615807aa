// The CPU kernels, free of PyTorch: compiled for each instruction set, selected at run time.
//
// The input is a matrix in memory (Layout in ops/layout.py): with inner == 1 its rows are positions
// and its columns units ("rows"); with inner > 1 its rows are planes of one unit ("planes"). A task takes a
// range of matrix rows, writes output and mask, and stores the extrema it found in a Partial.

#pragma once

#include <cstdint>

#include "activations.h"
#include "layout.h"
#include "linked_activations.h"
#include "options.h"

namespace jumpstart {

// A linked activation of matrix rows: both halves of its output, [2 * units], in place of [units].
struct LinkedForward {
  const void* x;
  const void* slopes;  // [2, units], of the type of statistics; null: none
  void* output;
  uint8_t* mask;  // [matrix_rows, 2 * mask_columns], of the positive and the negative x; null: none
  Layout layout;
  bool stream;                                                    // as of Forward
  void (*run)(const LinkedForward&, int64_t begin, int64_t end);  // the kernel
};

struct LinkedBackward {
  const void* grad_output;
  const void* x;        // null: the masks are enough
  const uint8_t* mask;  // null: x is needed
  const void* slopes;
  void* grad_x;
  Layout layout;
  bool stream;
  // Gradients of the slopes over chunks of rows, or over each plane: [chunks, 2, units], of the type of
  // statistics. Null: not asked for.
  void* slope_sums;
  int64_t chunk_rows;
};

struct Forward {
  const void* x;
  const void* bias;  // [units], of the type of statistics; null: none
  void* output;
  uint8_t* mask;  // [matrix_rows, mask_columns]
  Layout layout;
  bool position_points;
  bool stream;       // store the output past the caches; all its vectors are aligned
  double parameter;  // of the activation
  bool limited;      // extrema need not be followed beyond the margin
  double margin;
  const LinkedForward* linked;  // to be run on the rows that are still in cache; null: none
};

// Runs a linked activation on matrix rows whose statistics have been taken, if there is one.
JUMPSTART_INLINE void run_linked(const Forward& f, int64_t begin, int64_t end) {
  if (f.linked) f.linked->run(*f.linked, begin, end);
}

// What is known of the places of the points' extrema once the tasks have run.
enum class KnownPlaces {
  none,
  starts,   // a matrix element at the extremum or before it, and close to it
  elements  // the extremum
};

// Extrema of the matrix rows [begin, end). stat_t is float, or double for double.
template <typename stat_t>
struct Partial {
  int64_t begin, end;
  stat_t *unit_max, *unit_min;    // [units], padded to whole vectors
  stat_t *chunk_max, *chunk_min;  // [units] the same, scratch memory of a kernel
  // [units], where to search for it, relative to begin: the first matrix row; with inner > 1 the group of
  // planes, one of each unit. -1: the task has no plane of the unit.
  int32_t *unit_max_at, *unit_min_at;
  uint8_t* follows;               // scratch memory of a kernel: a flag for every group of columns
  stat_t *point_max, *point_min;  // of all points: a task writes those that begin in it
  // Of all points, the matrix element of the extremum, or one from where Finder searches for it: see
  // KnownPlaces. Null if neither is known.
  int64_t *point_max_element, *point_min_element;
  bool continues;             // its first row belongs to a point that begins in an earlier task
  stat_t head_max, head_min;  // of that point
  int64_t head_max_element, head_min_element;

  // Where to store the extrema of the point that a row of this task belongs to.
  JUMPSTART_INLINE stat_t* max_of(int64_t point, int64_t row) {
    return continues && row == begin ? &head_max : point_max + point;
  }
  JUMPSTART_INLINE stat_t* min_of(int64_t point, int64_t row) {
    return continues && row == begin ? &head_min : point_min + point;
  }
  // The same for elements. They do nothing if no places are known.
  JUMPSTART_INLINE void set_max_element(int64_t point, int64_t row, int64_t element) {
    if (point_max_element)
      *(continues && row == begin ? &head_max_element : point_max_element + point) = element;
  }
  JUMPSTART_INLINE void set_min_element(int64_t point, int64_t row, int64_t element) {
    if (point_min_element)
      *(continues && row == begin ? &head_min_element : point_min_element + point) = element;
  }
};

struct Backward {
  const void* grad_output;
  const uint8_t* mask;
  void* grad_x;
  Layout layout;
  bool stream;
  double parameter;  // of the activation
  // Of the gradient, over chunks of rows, or over each plane: [chunks, units], of the type of statistics.
  void* bias_sums;
  int64_t chunk_rows;
};

// The kernels of an activation, without a bias [0] and with one [1], then indexed by Scalar.
struct ActivationKernels {
  void (*forward[2][4])(const Forward&, void* partial);
  // Of matrix rows [begin, end). With bias_sums where rows are summed in chunks, `begin` begins one.
  void (*backward[2][4])(const Backward&, int64_t begin, int64_t end);
  // Output and mask of matrix rows [begin, end), no statistics; the output is x.
  void (*inplace[2][4])(const Forward&, int64_t begin, int64_t end);
};

// The kernels of a linked activation, of matrix rows [begin, end); indexed by Scalar. With slope_sums where
// rows are summed in chunks, `begin` begins one.
struct LinkedKernels {
  void (*forward[4])(const LinkedForward&, int64_t begin, int64_t end);
  void (*backward[4])(const LinkedBackward&, int64_t begin, int64_t end);
};

constexpr int64_t kWanted = -2;  // an index that is to be found

// Some of the units' or of the points' extrema.
template <typename stat_t>
struct Extrema {
  int64_t count;
  stat_t *maxima, *minima;
  int64_t *max_indices, *min_indices;
  stat_t margin;
};

template <typename stat_t>
struct SlackKernels {
  // Adds the slack of extrema to their sums, and limits them if their kind is limited. Sets the index of
  // those that have none by their kind to -1, of the others to kWanted, or [1], for places that are known,
  // leaves these as they are. Returns whether there are others.
  bool (*sum[2])(const Extrema<stat_t>&, ExtremaKind, double* sums);
  // The gradients of maxima [0], or of minima [1], from those of their sums.
  void (*gradients[2])(const stat_t* maxima, const stat_t* minima, int64_t count, stat_t margin,
                       const stat_t* grad_sums, stat_t* to);
};

// Indexed by ActivationKind; kStatisticsAlone has only a forward, which writes no output and no mask.
struct Kernels {
  ActivationKernels of[kActivations + 1];
  LinkedKernels linked[kLinkedActivations];
  // The first of `count` adjacent elements that is `extremum`, which none of them exceeds; `count` if none
  // is. `bias`, unless it is null, has a value for each element, or one for all. Indexed by Scalar.
  int64_t (*search[4])(const void* x, const void* bias, bool one_for_all, int64_t count, double extremum,
                       bool maximum);
  SlackKernels<float> of_floats;
  SlackKernels<double> of_doubles;

  JUMPSTART_INLINE const SlackKernels<float>& slack(float) const { return of_floats; }
  JUMPSTART_INLINE const SlackKernels<double>& slack(double) const { return of_doubles; }
};

const Kernels& kernels_default();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();

// Whether a value replaces an extremum found before it: NaN does, ties do not.
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
