// Where the halves of a matrix row are in the output of a linked activation, or in its gradient. Free of
// PyTorch.

#pragma once

#include <cstdint>

#include "layout.h"

namespace jumpstart {

struct HalfRows {
  JUMPSTART_INLINE explicit HalfRows(const Layout& layout)
      : units(layout.units),
        columns(layout.matrix_columns()),
        half(layout.inner > 1 ? units * columns : columns),
        planes(layout.inner > 1) {}

  // In rows as long as those of x.
  JUMPSTART_INLINE int64_t first_row(int64_t row) const {
    return planes ? row + row / units * units : 2 * row;
  }
  JUMPSTART_INLINE int64_t first(int64_t row) const { return first_row(row) * columns; }
  JUMPSTART_INLINE int64_t second(int64_t row) const { return first(row) + half; }

  int64_t units, columns;
  int64_t half;  // from a row's first half to its second
  bool planes;
};

}  // namespace jumpstart
