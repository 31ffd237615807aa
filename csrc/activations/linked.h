// What the linked activations have in common.

#pragma once

#include "layout.h"

namespace jumpstart {

// Both halves of an output, of its gradient, or of the slopes.
template <typename V>
struct Halves {
  typename V::Values first, second;
};

template <typename V>
JUMPSTART_INLINE typename V::Values zero() {
  return V::broadcast(0);
}

template <typename V>
JUMPSTART_INLINE typename V::Values negated(typename V::Values x) {
  return V::subtract(zero<V>(), x);
}

// -|x|, NaN for NaN.
template <typename V>
JUMPSTART_INLINE typename V::Values nonpositive(typename V::Values x) {
  return V::select(V::less(zero<V>(), x), negated<V>(x), x);
}

// Where x <= 0 is false, and where -x <= 0 is: of a NaN both.
template <typename V>
JUMPSTART_INLINE typename V::Mask positive(typename V::Values x) {
  return V::either(V::less(zero<V>(), x), V::unordered(x, x));
}
template <typename V>
JUMPSTART_INLINE typename V::Mask negative(typename V::Values x) {
  return V::either(V::less(x, zero<V>()), V::unordered(x, x));
}

}  // namespace jumpstart
