// Applies an activation to vectors, and packs the mask that its gradient needs.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/extrema.cuh"

namespace jumpstart {
namespace cuda {

// Overwrites `packs` with the activation's output; returns the vector's mask bits.
template <typename V, typename Activation>
JUMPSTART_DEVICE uint32_t activate(const Activation& activation, typename V::Value (&packs)[V::kPacks]) {
  using P = typename V::P;
  typename P::Mask masks[V::kPacks];
#pragma unroll
  for (int p = 0; p < V::kPacks; ++p) {
    masks[p] = P::positive(packs[p]);
    packs[p] = activation.template value<P>(packs[p], masks[p]);
  }
  return P::template to_bits<V::kPacks>(masks);
}

// Joins the bits that neighboring lanes of a row hold into bytes of the mask, for kDepth rows at once.
template <typename V>
JUMPSTART_DEVICE uint32_t join_bits(uint32_t bits, int lane_in_row, int lanes) {
  if constexpr (V::kElements < 8) {
    bits <<= lane_in_row * V::kElements & 7;
#pragma unroll
    for (int offset = 1; offset < 8 / V::kElements; offset *= 2) {
      if (offset < lanes) bits |= __shfl_xor_sync(kWholeWarp, bits, offset);
    }
  }
  return bits;
}

}  // namespace cuda
}  // namespace jumpstart
