// Mask bits of a vector, or of its first `width` lanes.

#pragma once

#include <cstdint>
#include <cstring>

#include "layout.h"

namespace jumpstart {

template <int lanes>
JUMPSTART_INLINE void store_bits(uint8_t* to, uint32_t bits) {
  std::memcpy(to, &bits, lanes / 8);
}
JUMPSTART_INLINE void store_bits(uint8_t* to, uint32_t bits, int width) {
  std::memcpy(to, &bits, 1);
  if (width > 8) to[1] = static_cast<uint8_t>(bits >> 8);
}
template <int lanes>
JUMPSTART_INLINE uint32_t load_bits(const uint8_t* from) {
  uint32_t bits = 0;
  std::memcpy(&bits, from, lanes / 8);
  return bits;
}
JUMPSTART_INLINE uint32_t load_bits(const uint8_t* from, int width) {
  return width > 8 ? from[0] | static_cast<uint32_t>(from[1]) << 8 : from[0];
}

}  // namespace jumpstart
