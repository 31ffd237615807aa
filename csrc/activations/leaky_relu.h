// leaky_relu(x) = x where x is positive, else x times the negative slope.

#pragma once

#include "layout.h"

namespace jumpstart {

struct LeakyReLU {
  static constexpr const char* name = "leaky_relu";

  JUMPSTART_INLINE explicit LeakyReLU(double negative_slope)
      : float32_(static_cast<float>(negative_slope)), float64_(negative_slope) {}

  template <typename V>
  JUMPSTART_INLINE typename V::Raw value(typename V::Raw x, typename V::Sign positive) const {
    return V::choose(positive, x, V::scale(x, negative_slope<typename V::stat_t>()));
  }

  template <typename V>
  JUMPSTART_INLINE typename V::Raw gradient(typename V::Raw grad_output, typename V::Sign positive) const {
    return value<V>(grad_output, positive);
  }

 private:
  template <typename stat_t>
  JUMPSTART_INLINE stat_t negative_slope() const {
    if constexpr (sizeof(stat_t) == sizeof(float)) {
      return float32_;
    } else {
      return float64_;
    }
  }

  float float32_;  // both: a conversion would stand in the loops of a GPU
  double float64_;
};

}  // namespace jumpstart
