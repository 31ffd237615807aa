// What the kernels know of an activation: its scalar type, and its layout in memory (ops/layout.py). Free of
// PyTorch.

#pragma once

#include <cstdint>

// Always inlined: the linker keeps one copy of an inline function, which might be the one compiled for a
// newer processor.
#ifdef __CUDACC__
#define JUMPSTART_INLINE __host__ __device__ inline __attribute__((always_inline))
#else
#define JUMPSTART_INLINE inline __attribute__((always_inline))
#endif

namespace jumpstart {

enum class Scalar { float32, float64, float16, bfloat16 };

struct Layout {
  int64_t samples, rows, units, inner;
  bool channels_last;

  JUMPSTART_INLINE int64_t matrix_rows() const { return samples * rows * (inner == 1 ? 1 : units); }
  JUMPSTART_INLINE int64_t matrix_columns() const { return inner == 1 ? units : inner; }
  JUMPSTART_INLINE int64_t mask_columns() const { return (matrix_columns() + 7) / 8; }
  JUMPSTART_INLINE int64_t rows_per_sample() const { return rows * (inner == 1 ? 1 : units); }
  // Whether each point lies across the planes of a row of units.
  JUMPSTART_INLINE bool points_across(bool position_points) const { return position_points && inner > 1; }
  JUMPSTART_INLINE int64_t rows_per_point(bool position_points) const {
    return position_points ? 1 : rows_per_sample();
  }
};

}  // namespace jumpstart
