// Extrema that are limited to the margin, and have reached it on both sides: they need not be followed.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/extrema.cuh"
#include "cuda/packs.cuh"

namespace jumpstart {
namespace cuda {

// Infinite, which is limited to any margin.
template <typename stat_t>
JUMPSTART_DEVICE Extrema<stat_t> satisfied_extrema() {
  const auto key = order_key(infinity<stat_t>());
  return {key, key, 0, 0};
}

// Whether a sum of all values is NaN. If any of them is, it is; others than NaN seldom add up to it.
template <typename V, int depth>
JUMPSTART_DEVICE bool may_hold_nan(const typename V::Value (&x)[depth][V::kPacks]) {
  using P = typename V::P;
  auto sum = x[0][0];
#pragma unroll
  for (int i = 1; i < depth * V::kPacks; ++i) sum = P::sum(sum, x[i / V::kPacks][i % V::kPacks]);
  return P::any(P::nan(sum));
}

// The margin, to compare packs of values with.
template <typename V>
class Reach {
  using P = typename V::P;
  using Value = typename V::Value;

 public:
  JUMPSTART_DEVICE explicit Reach(typename V::stat_t margin)
      : high_(P::fill(margin)), low_(P::fill(-margin)) {}

  // The bits of values whose maximum lies beyond the margin; from bit 8 on, of those whose minimum does.
  // Strictly beyond, since a 16-bit margin is rounded.
  template <int packs>
  JUMPSTART_DEVICE uint32_t bits(const Value (&max)[packs], const Value (&min)[packs]) const {
    typename P::Mask above[packs], below[packs];
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      above[p] = P::greater(max[p], high_);
      below[p] = P::greater(low_, min[p]);
    }
    return P::template to_bits<packs>(above) | P::template to_bits<packs>(below) << 8;
  }

  // Whether all values of so many packs have reached the margin on both sides.
  template <int packs>
  JUMPSTART_DEVICE static bool all_values(uint32_t bits) {
    constexpr uint32_t all = (1u << packs * P::kValues) - 1;
    return (bits & all * 0x101u) == all * 0x101u;
  }
  // Whether in each of so many packs a value has reached it above, and one below.
  template <int packs>
  JUMPSTART_DEVICE static bool all_packs(uint32_t bits) {
    if constexpr (P::kValues == 2) bits |= bits >> 1;
    constexpr uint32_t all = ((1u << packs * P::kValues) - 1) / ((1u << P::kValues) - 1);  // a bit of each
    return (bits & all * 0x101u) == all * 0x101u;
  }

 private:
  Value high_, low_;
};

}  // namespace cuda
}  // namespace jumpstart
