// e^x for x that are not positive, of CPU vectors and GPU values alike, to about one unit in the last place.
// Free of PyTorch.

#pragma once

#include <type_traits>

#include "layout.h"

#ifdef __CUDACC__
#define JUMPSTART_UNROLL _Pragma("unroll")
#else
#define JUMPSTART_UNROLL _Pragma("GCC unroll 16")
#endif

namespace jumpstart {

// e^x = power + rest, where rest = power * (e^r - 1): so e^x - 1 = (power - 1) + rest loses nothing near 0.
template <typename V>
struct Exponential {
  typename V::Values power, rest;

  JUMPSTART_INLINE typename V::Values value() const { return V::add(power, rest); }
  JUMPSTART_INLINE typename V::Values minus_one() const {
    return V::add(V::subtract(power, V::broadcast(1)), rest);
  }
};

// What depends on the precision: where e^x rounds to 0, how to round to a whole number, ln 2 in two parts,
// the first of which has few bits.
template <typename stat_t>
struct ExponentialConstants {
  static constexpr bool is_float = std::is_same<stat_t, float>::value;
  static constexpr stat_t lowest = is_float ? stat_t(-104) : stat_t(-746);
  static constexpr stat_t rounder =
      is_float ? stat_t(12582912) : stat_t(6755399441055744);  // 1.5 * 2^23, 2^52
  static constexpr stat_t ln2_high = is_float ? stat_t(0.693359375) : stat_t(6.93147180369123816490e-01);
  static constexpr stat_t ln2_low = is_float ? stat_t(-2.12194440e-4) : stat_t(1.90821492927058770002e-10);
  static constexpr int terms = is_float ? 7 : 13;  // of the series of (e^r - 1 - r) / r^2
};

template <typename V>
JUMPSTART_INLINE Exponential<V> exponential(typename V::Values x) {
  using stat_t = typename V::stat_t;
  using C = ExponentialConstants<stat_t>;
  const auto whole = [](typename V::Values v) {
    const auto rounder = V::broadcast(C::rounder);
    return V::subtract(V::add(v, rounder), rounder);
  };
  const auto lowest = V::broadcast(C::lowest);
  x = V::select(V::less(x, lowest), lowest, x);
  const auto n = whole(V::multiply(x, V::broadcast(stat_t(1.44269504088896340736))));
  const auto r = V::subtract(V::subtract(x, V::multiply(n, V::broadcast(C::ln2_high))),
                             V::multiply(n, V::broadcast(C::ln2_low)));
  double factorial[C::terms + 2] = {1, 1};
  for (int k = 2; k < C::terms + 2; ++k) factorial[k] = factorial[k - 1] * k;
  auto series = V::broadcast(stat_t(1 / factorial[C::terms + 1]));
  JUMPSTART_UNROLL
  for (int k = C::terms; k > 1; --k) {
    series = V::add(V::multiply(series, r), V::broadcast(stat_t(1 / factorial[k])));
  }
  const auto minus_one = V::add(r, V::multiply(V::multiply(r, r), series));
  // In two halves, so that each is a normal number where e^x is not.
  const auto half = whole(V::multiply(n, V::broadcast(stat_t(0.5))));
  const auto first = V::power_of_two(half), second = V::power_of_two(V::subtract(n, half));
  return {V::multiply(first, second), V::multiply(first, V::multiply(second, minus_one))};
}

}  // namespace jumpstart
