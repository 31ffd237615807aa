// linked_silu(x) = cat(silu(x), silu(-x)), where silu(x) = x sigmoid(x). One exponential serves both halves.

#pragma once

#include "activations/linked.h"
#include "exponential.h"

namespace jumpstart {

struct LinkedSiLU {
  static constexpr const char* name = "linked_silu";
  static constexpr bool from_sign = false, has_weight = false;

  template <typename V>
  JUMPSTART_INLINE static Halves<V> values(typename V::Values x, const Halves<V>&) {
    const Halves<V> sigmoid = sigmoids<V>(x);
    return {V::multiply(x, sigmoid.first), V::multiply(negated<V>(x), sigmoid.second)};
  }

  template <typename V>
  JUMPSTART_INLINE static typename V::Values gradient(const Halves<V>& grad, typename V::Values x,
                                                      const Halves<V>&) {
    const auto one = V::broadcast(1);
    const Halves<V> sigmoid = sigmoids<V>(x);
    const auto of_first = V::multiply(sigmoid.first, V::add(one, V::multiply(x, sigmoid.second)));
    const auto of_second = V::multiply(sigmoid.second, V::subtract(one, V::multiply(x, sigmoid.first)));
    return V::subtract(V::multiply(grad.first, of_first), V::multiply(grad.second, of_second));
  }

 private:
  // Of x and of -x.
  template <typename V>
  JUMPSTART_INLINE static Halves<V> sigmoids(typename V::Values x) {
    const auto power = exponential<V>(nonpositive<V>(x)).value(), one = V::broadcast(1);
    const auto large = V::divide(one, V::add(one, power)), small = V::multiply(power, large);
    const auto below = V::less(x, zero<V>());
    return {V::select(below, small, large), V::select(below, large, small)};
  }
};

}  // namespace jumpstart
