// linked_selu(x) = cat(selu(x), selu(-x)). One exponential serves both halves: one of them is linear.

#pragma once

#include "activations/linked.h"
#include "exponential.h"

namespace jumpstart {

struct LinkedSELU {
  static constexpr const char* name = "linked_selu";
  static constexpr bool from_sign = false, has_weight = false;

  template <typename V>
  JUMPSTART_INLINE static Halves<V> values(typename V::Values x, const Halves<V>&) {
    const auto saturating = V::multiply(steepness<V>(), exponential<V>(nonpositive<V>(x)).minus_one());
    const auto linear = V::multiply(scale<V>(), x);
    return {V::select(V::less(zero<V>(), x), linear, saturating),
            V::select(V::less(x, zero<V>()), negated<V>(linear), saturating)};
  }

  template <typename V>
  JUMPSTART_INLINE static typename V::Values gradient(const Halves<V>& grad, typename V::Values x,
                                                      const Halves<V>&) {
    const auto saturating = V::multiply(steepness<V>(), exponential<V>(nonpositive<V>(x)).value());
    const auto of_first = V::select(positive<V>(x), scale<V>(), saturating);
    const auto of_second = V::select(negative<V>(x), scale<V>(), saturating);
    return V::subtract(V::multiply(grad.first, of_first), V::multiply(grad.second, of_second));
  }

 private:
  template <typename V>
  JUMPSTART_INLINE static typename V::Values scale() {
    return V::broadcast(static_cast<typename V::stat_t>(kScale));
  }
  template <typename V>
  JUMPSTART_INLINE static typename V::Values steepness() {  // at 0, from the left
    return V::broadcast(static_cast<typename V::stat_t>(kScale * kAlpha));
  }

  static constexpr double kAlpha = 1.6732632423543772848170429916717;
  static constexpr double kScale = 1.0507009873554804934193349852946;
};

}  // namespace jumpstart
