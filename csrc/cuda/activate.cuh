// An activation's output, and the mask that its gradient asks for.

#pragma once

#include <cstdint>

#include "cuda/device.cuh"
#include "cuda/extrema.cuh"

namespace jumpstart {
namespace cuda {

// Of one vector: `packs` are overwritten, and its bits of the mask returned.
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

// Bytes of the mask, of kDepth rows at once, from the bits that neighbouring lanes of a row hold.
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
