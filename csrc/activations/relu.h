// relu(x) = max(x, 0).

#pragma once

#include "layout.h"

namespace jumpstart {

struct ReLU {
  static constexpr const char* name = "relu";

  JUMPSTART_INLINE explicit ReLU(double) {}

  template <typename V>
  JUMPSTART_INLINE typename V::Raw value(typename V::Raw x, typename V::Sign positive) const {
    return V::keep(x, positive);
  }

  template <typename V>
  JUMPSTART_INLINE typename V::Raw gradient(typename V::Raw grad_output, typename V::Sign positive) const {
    return V::keep(grad_output, positive);
  }
};

}  // namespace jumpstart
