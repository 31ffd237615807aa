// The place of an extremum among adjacent elements.

#pragma once

#include <cstdint>

#include "cpu/bias.h"
#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

enum BiasKind { kNoBias, kBiasOfEach, kBiasOfAll };

template <typename scalar_t, BiasKind kind, bool maximum>
int64_t search_of(const scalar_t* x, const typename VectorOf<scalar_t>::stat_t* bias, int64_t count,
                  typename VectorOf<scalar_t>::stat_t value) {
  using V = VectorOf<scalar_t>;
  constexpr int64_t kStep = 4 * V::lanes;
  constexpr uint32_t all = (uint32_t{1} << V::lanes) - 1;
  const auto extremum = V::broadcast(value);
  const auto all_bias = V::broadcast(kind == kBiasOfAll ? *bias : 0);
  const auto is_extremum = [&](int64_t k) {
    const scalar_t v = kind == kNoBias ? x[k] : plus(x[k], bias[kind == kBiasOfEach ? k : 0]);
    return same<decltype(value)>(to_float(v), value);
  };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    uint32_t others = all;  // lanes that are not the extremum
    JUMPSTART_UNROLL for (int k = 0; k < 4; ++k) {
      auto raw = V::load(x + i + k * V::lanes);
      if (kind != kNoBias) {
        raw = plus<V>(raw, kind == kBiasOfEach ? V::load_values(bias + i + k * V::lanes) : all_bias);
      }
      const auto v = V::values(raw);
      others &= V::bits(maximum ? V::less(v, extremum) : V::less(extremum, v));
    }
    if (others == all) continue;
    for (int64_t k = i; k < i + kStep; ++k) {  // or it was a NaN
      if (is_extremum(k)) return k;
    }
  }
  while (i < count && !is_extremum(i)) ++i;
  return i;
}

template <typename scalar_t, BiasKind kind>
int64_t search_of(const void* x, const void* bias, int64_t count, double value, bool maximum) {
  using stat_t = typename VectorOf<scalar_t>::stat_t;
  const auto* from = static_cast<const scalar_t*>(x);
  const auto* added = static_cast<const stat_t*>(bias);
  const auto extremum = static_cast<stat_t>(value);
  return maximum ? search_of<scalar_t, kind, true>(from, added, count, extremum)
                 : search_of<scalar_t, kind, false>(from, added, count, extremum);
}

template <typename scalar_t>
int64_t search(const void* x, const void* bias, bool one_for_all, int64_t count, double value, bool maximum) {
  if (bias == nullptr) return search_of<scalar_t, kNoBias>(x, bias, count, value, maximum);
  return one_for_all ? search_of<scalar_t, kBiasOfAll>(x, bias, count, value, maximum)
                     : search_of<scalar_t, kBiasOfEach>(x, bias, count, value, maximum);
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
