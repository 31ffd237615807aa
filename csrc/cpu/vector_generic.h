// Vectors of eight, in the compiler's vector extension: AVX2 where the file is compiled for it, else whatever
// the target has (SSE2, NEON). The namespace tells the builds apart.

#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/half.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

constexpr int kRowBlock = 4;

typedef float Float8 __attribute__((vector_size(32)));
typedef double Double8 __attribute__((vector_size(64)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef int64_t Long8 __attribute__((vector_size(64)));
typedef uint16_t Short8 __attribute__((vector_size(16)));
typedef uint32_t UInt8 __attribute__((vector_size(32)));

template <typename V, typename T>
inline V load_as(const T* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
// Lanes beyond the count repeat the first, which changes no extremum.
template <typename V, typename T>
inline V load_first_as(const T* from, int count) {
  T padded[8];
  for (int i = 0; i < 8; ++i) padded[i] = from[i < count ? i : 0];
  return load_as<V>(padded);
}

inline uint32_t bits_of(Int8 m) {
#if defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(m)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint32_t>(m[i] & 1) << i;
  return bits;
#endif
}
inline uint32_t bits_of(Long8 m) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint32_t>(m[i] & 1) << i;
  return bits;
}

// Bits to lanes of all ones.
inline Int8 lanes_of(uint32_t bits) {
  const Int8 place = {1, 2, 4, 8, 16, 32, 64, 128};
  return (place & static_cast<int32_t>(bits)) != 0;
}

template <typename stat, typename values, typename lane_mask>
struct Lanes {
  using stat_t = stat;
  using Values = values;
  static constexpr int lanes = 8;

  static Values broadcast(stat_t value) { return value - Values{}; }
  static Values load_values(const stat_t* from) { return load_as<Values>(from); }
  static void store_values(stat_t* to, Values v) { std::memcpy(to, &v, sizeof v); }
  static Values max(Values a, Values b) { return a > b ? a : b; }
  static Values min(Values a, Values b) { return a < b ? a : b; }
  static uint32_t less(Values a, Values b) { return bits_of(lane_mask(a < b)); }
  static uint32_t unordered(Values a, Values b) { return bits_of(lane_mask((a != a) | (b != b))); }
  static uint32_t positive(Values v) { return bits_of(lane_mask(~(v <= 0))); }
  static stat_t largest(Values v) {
    stat_t best = v[0];
    for (int i = 1; i < 8; ++i) best = v[i] > best ? v[i] : best;
    return best;
  }
  static stat_t smallest(Values v) {
    stat_t best = v[0];
    for (int i = 1; i < 8; ++i) best = v[i] < best ? v[i] : best;
    return best;
  }
  static void store_where(int32_t* to, uint32_t bits, int32_t value) {
    const Int8 old = load_as<Int8>(to), mask = lanes_of(bits);
    const Int8 mixed = (old & ~mask) | (mask & value);
    std::memcpy(to, &mixed, sizeof mixed);
  }
  static void store_mask(uint8_t* to, uint32_t bits, int) { *to = static_cast<uint8_t>(bits); }
  static uint32_t load_mask(const uint8_t* from, int) { return *from; }
};

// What the loads and stores of a scalar are, given the raw register that holds eight of it.
template <typename scalar, typename raw, typename raw_mask, typename base>
struct Storage : base {
  using scalar_t = scalar;
  using Raw = raw;

  static Raw load(const scalar_t* from) { return load_as<Raw>(from); }
  static Raw load_first(const scalar_t* from, int count) { return load_first_as<Raw>(from, count); }
  static Raw where_set(Raw v, uint32_t bits) {
    const raw_mask mask = __builtin_convertvector(lanes_of(bits), raw_mask);
    return reinterpret_cast<Raw>(reinterpret_cast<raw_mask>(v) & mask);
  }
  static void store_where_set(scalar_t* to, Raw v, uint32_t bits) {
    const Raw kept = where_set(v, bits);
    std::memcpy(to, &kept, sizeof kept);
  }
  static void store_first_where_set(scalar_t* to, Raw v, uint32_t bits, int count) {
    const Raw kept = where_set(v, bits);
    std::memcpy(to, &kept, sizeof(scalar_t) * static_cast<size_t>(count));
  }
};

template <typename scalar_t>
struct VectorOf;

template <>
struct VectorOf<float> : Storage<float, Float8, Int8, Lanes<float, Float8, Int8>> {
  static Values values(Raw raw) { return raw; }
};
template <>
struct VectorOf<double> : Storage<double, Double8, Long8, Lanes<double, Double8, Long8>> {
  static Values values(Raw raw) { return raw; }
};
template <>
struct VectorOf<BFloat16> : Storage<BFloat16, Short8, Short8, Lanes<float, Float8, Int8>> {
  static Values values(Raw raw) {
    return reinterpret_cast<Float8>(__builtin_convertvector(raw, UInt8) << 16);
  }
};
template <>
struct VectorOf<Half> : Storage<Half, Short8, Short8, Lanes<float, Float8, Int8>> {
  static Values values(Raw raw) {
#if defined(__F16C__)
    return reinterpret_cast<Float8>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(raw)));
#else
    Float8 v;
    for (int i = 0; i < 8; ++i) v[i] = to_float(Half{raw[i]});
    return v;
#endif
  }
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
