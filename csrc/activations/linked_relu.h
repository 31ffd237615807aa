// linked_relu(x) = cat(relu(x), relu(-x)).

#pragma once

#include "activations/linked.h"

namespace jumpstart {

struct LinkedReLU {
  static constexpr const char* name = "linked_relu";
  static constexpr bool from_sign = true, has_weight = false;

  template <typename V>
  JUMPSTART_INLINE static Halves<V> values(typename V::Values x, const Halves<V>&) {
    return {V::select(positive<V>(x), x, zero<V>()), V::select(negative<V>(x), negated<V>(x), zero<V>())};
  }

  template <typename V>
  JUMPSTART_INLINE static typename V::Values gradient(const Halves<V>& kept) {
    return V::subtract(kept.first, kept.second);
  }
};

}  // namespace jumpstart
