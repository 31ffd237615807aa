// The 16-bit floats as storage, without PyTorch's headers.

#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/kernels.h"

namespace jumpstart {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

JUMPSTART_INLINE float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

JUMPSTART_INLINE float to_float(float x) { return x; }
JUMPSTART_INLINE double to_float(double x) { return x; }
JUMPSTART_INLINE float to_float(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
JUMPSTART_INLINE float to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // inf, NaN
    return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude >= 0x0400u) {
    return from_bits(sign | ((magnitude << 13) + 0x38000000u));
  }
  const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -subnormal : subnormal;
}

}  // namespace jumpstart
