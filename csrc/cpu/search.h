// The place of an extremum among adjacent elements.

#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, bool maximum>
int64_t search_of(const scalar_t* x, int64_t count, typename VectorOf<scalar_t>::stat_t value) {
  using V = VectorOf<scalar_t>;
  constexpr int64_t kStep = 4 * V::lanes;
  constexpr uint32_t all = (uint32_t{1} << V::lanes) - 1;
  const auto extremum = V::broadcast(value);
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    uint32_t others = all;  // lanes that are not the extremum
    JUMPSTART_UNROLL for (int k = 0; k < 4; ++k) {
      const auto v = V::values(V::load(x + i + k * V::lanes));
      others &= V::bits(maximum ? V::less(v, extremum) : V::less(extremum, v));
    }
    if (others == all) continue;
    for (int64_t k = i; k < i + kStep; ++k) {  // or it was a NaN
      if (same<decltype(value)>(to_float(x[k]), value)) return k;
    }
  }
  while (i < count && !same<decltype(value)>(to_float(x[i]), value)) ++i;
  return i;
}

template <typename scalar_t>
int64_t search(const void* x, int64_t count, double value, bool maximum) {
  const auto* from = static_cast<const scalar_t*>(x);
  const auto extremum = static_cast<typename VectorOf<scalar_t>::stat_t>(value);
  return maximum ? search_of<scalar_t, true>(from, count, extremum)
                 : search_of<scalar_t, false>(from, count, extremum);
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
