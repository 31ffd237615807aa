// The 16-bit floats and their conversions, free of PyTorch.

#pragma once

#include <cstdint>
#include <cstring>

#include "layout.h"

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

JUMPSTART_INLINE uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
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

// Rounds to nearest, ties to even.
template <typename scalar_t>
JUMPSTART_INLINE scalar_t from_float(decltype(to_float(scalar_t{})) x) {
  return x;
}
template <>
JUMPSTART_INLINE BFloat16 from_float<BFloat16>(float x) {
  const uint32_t bits = to_bits(x);
  if (x != x) return {0x7fc0};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
template <>
JUMPSTART_INLINE Half from_float<Half>(float x) {
  const uint32_t bits = to_bits(x), sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (x != x) return {0x7e00};
  if (magnitude >= 0x47800000u) {  // 2^16
    magnitude = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14; rounding up to 2^16 carries into infinity
    magnitude = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1)) >> 13;
  } else {  // subnormal: the last bit of 0.5f is 2^-24, as that of the result, so the sum rounds correctly
    magnitude = to_bits(from_bits(magnitude) + 0.5f) - to_bits(0.5f);
  }
  return {static_cast<uint16_t>(sign | magnitude)};
}

}  // namespace jumpstart
