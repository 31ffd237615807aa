// The bias that is added to the input before all else, in the type of statistics, and rounded to the scalar
// type as PyTorch rounds the sum of two tensors.

#pragma once

#include <cstdint>

#include "cpu/half.h"
#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename V>
JUMPSTART_INLINE typename V::Raw plus(typename V::Raw x, typename V::Values bias) {
  return V::rounded(V::add(V::values(x), bias));
}

template <typename scalar_t>
JUMPSTART_INLINE scalar_t plus(scalar_t x, typename VectorOf<scalar_t>::stat_t bias) {
  return from_float<scalar_t>(to_float(x) + bias);
}

// A matrix row as it is in memory, or with its bias: one value for each column, or the same for all.
template <typename scalar_t, bool with_bias>
class RowInput {
  using V = VectorOf<scalar_t>;
  using stat_t = typename V::stat_t;

 public:
  RowInput(const Forward& f, int64_t row)
      : x_(static_cast<const scalar_t*>(f.x) + row * f.layout.matrix_columns()) {
    if (!with_bias) return;
    step_ = f.layout.inner == 1;
    bias_ = static_cast<const stat_t*>(f.bias) + (step_ ? 0 : row % f.layout.units);
  }

  JUMPSTART_INLINE scalar_t operator[](int64_t column) const {
    if constexpr (with_bias) return plus(x_[column], bias_[column * step_]);
    return x_[column];
  }

 private:
  const scalar_t* x_;
  const stat_t* bias_ = nullptr;
  int64_t step_ = 0;
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
