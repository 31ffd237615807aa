// The scalar path, for rows with a NaN: the vectors' comparisons may differ there.

#pragma once

#include <cstdint>

#include "cpu/half.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

// As a vector, to an activation.
template <typename scalar_t>
struct OneLane {
  using stat_t = decltype(to_float(scalar_t{}));
  using Raw = scalar_t;
  using Sign = bool;

  static Sign positive(Raw raw) { return !(to_float(raw) <= 0); }
  static Raw keep(Raw raw, Sign s) { return s ? raw : Raw{}; }
  static Raw choose(Sign s, Raw a, Raw b) { return s ? a : b; }
  static Raw scale(Raw raw, stat_t factor) { return from_float<scalar_t>(to_float(raw) * factor); }
};

// Output and mask of a matrix row, a RowInput; the output may be x.
template <typename scalar_t, typename Activation, typename Input>
void exact_row(const Activation& activation, const Input& x, scalar_t* output, uint8_t* mask,
               int64_t columns) {
  using V = OneLane<scalar_t>;
  for (int64_t column = 0; column < columns; ++column) {
    const scalar_t raw = x[column];
    const bool positive = V::positive(raw);
    const unsigned before = column % 8 ? mask[column / 8] : 0u;
    output[column] = activation.template value<V>(raw, positive);
    mask[column / 8] = static_cast<uint8_t>(before | static_cast<unsigned>(positive) << column % 8);
  }
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
