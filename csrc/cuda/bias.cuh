// The bias of a forward: added to x as it is loaded, before all else.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"

namespace jumpstart {
namespace cuda {

// What the units of a bias are in the matrix.
enum class UnitsAre { without_bias, columns, rows };

// A kernel's last argument, so that one without a bias is compiled as if there were none at all.
template <typename scalar_t, UnitsAre are>
struct Bias {
  static constexpr UnitsAre kUnitsAre = are;
  const scalar_t* values;  // [units]
};
template <typename scalar_t>
struct Bias<scalar_t, UnitsAre::without_bias> {
  static constexpr UnitsAre kUnitsAre = UnitsAre::without_bias;
};

}  // namespace cuda
}  // namespace jumpstart
