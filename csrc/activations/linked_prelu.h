// linked_prelu(x) = cat(prelu(x), prelu(-x)), each half with slopes of its own.

#pragma once

#include "activations/linked.h"

namespace jumpstart {

struct LinkedPReLU {
  static constexpr const char* name = "linked_prelu";
  static constexpr bool from_sign = false, has_weight = true;

  template <typename V>
  JUMPSTART_INLINE static Halves<V> values(typename V::Values x, const Halves<V>& slopes) {
    const auto minus_x = negated<V>(x);
    return {V::select(V::less(zero<V>(), x), x, V::multiply(slopes.first, x)),
            V::select(V::less(x, zero<V>()), minus_x, V::multiply(slopes.second, minus_x))};
  }

  template <typename V>
  JUMPSTART_INLINE static typename V::Values gradient(const Halves<V>& grad, typename V::Values x,
                                                      const Halves<V>& slopes) {
    const auto one = V::broadcast(1);
    const auto of_first = V::select(V::less(zero<V>(), x), one, slopes.first);
    const auto of_second = V::select(V::less(x, zero<V>()), one, slopes.second);
    return V::subtract(V::multiply(grad.first, of_first), V::multiply(grad.second, of_second));
  }

  template <typename V>
  JUMPSTART_INLINE static Halves<V> slope_gradients(const Halves<V>& grad, typename V::Values x) {
    const auto of_first = V::select(V::less(zero<V>(), x), zero<V>(), x);
    const auto of_second = V::select(V::less(x, zero<V>()), zero<V>(), negated<V>(x));
    return {V::multiply(grad.first, of_first), V::multiply(grad.second, of_second)};
  }
};

}  // namespace jumpstart
