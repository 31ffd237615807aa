// Portable vectors of eight values, in the compiler's vector extension. A Mask or Sign has all bits of a lane
// set, or none.

#pragma once

#include "cpu/half.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

constexpr int kRowBlock = 2;
constexpr bool kStoresSigns = false;

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
template <typename V, typename T>
inline V load_first_as(const T* from, int count) {
  T padded[8];
  for (int i = 0; i < 8; ++i) padded[i] = from[i < count ? i : 0];
  return load_as<V>(padded);
}

template <typename Mask>
inline uint32_t bits_of(Mask m) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) bits |= static_cast<uint32_t>(m[i] & 1) << i;
  return bits;
}

template <typename stat, typename values, typename mask>
struct Lanes {
  using stat_t = stat;
  using Values = values;
  using Mask = mask;
  using Sign = mask;
  static constexpr int lanes = 8;

  static void fence() {}
  static Values broadcast(stat_t value) { return value - Values{}; }
  static Values load_values(const stat_t* from) { return load_as<Values>(from); }
  static void store_values(stat_t* to, Values v) { std::memcpy(to, &v, sizeof v); }
  static Values gather(const stat_t* from, int stride) {
    Values v;
    for (int i = 0; i < 8; ++i) v[i] = from[i * stride];
    return v;
  }
  static Values max(Values a, Values b) { return a > b ? a : b; }
  static Values min(Values a, Values b) { return a < b ? a : b; }
  static Mask none() { return Mask{}; }
  static Mask either(Mask a, Mask b) { return a | b; }
  static Values select(Mask m, Values a, Values b) { return m ? a : b; }
  static Mask less(Values a, Values b) { return a < b; }
  static Mask unordered(Values a, Values b) { return (a != a) | (b != b); }
  static Values add(Values a, Values b) { return a + b; }
  static Values subtract(Values a, Values b) { return a - b; }
  static Values multiply(Values a, Values b) { return a * b; }
  static Values divide(Values a, Values b) { return a / b; }
  static Values power_of_two(Values n) {
    constexpr bool is_float = sizeof(stat_t) == sizeof(float);
    constexpr int bits = is_float ? 23 : 52, bias = is_float ? 127 : 1023;
    const Values aligned = n + static_cast<stat_t>((int64_t{1} << bits) + bias);
    Mask biased;  // an integer of the same width
    std::memcpy(&biased, &aligned, sizeof biased);
    biased <<= bits;
    Values power;
    std::memcpy(&power, &biased, sizeof power);
    return power;
  }
  static uint32_t bits(Mask m) { return bits_of(m); }
  static uint32_t sign_bits(Sign s) { return bits_of(s); }
  static uint64_t sign_bits(Sign a, Sign b, Sign c, Sign d) {
    return bits_of(a) | bits_of(b) << 8 | bits_of(c) << 16 | static_cast<uint64_t>(bits_of(d)) << 24;
  }
  static Sign lanes_of(uint32_t bits) {
    const Mask place = {1, 2, 4, 8, 16, 32, 64, 128};
    return (place & static_cast<int32_t>(bits)) != 0;
  }
  static void store_signs(uint8_t* to, const Sign* s) {
    const auto bits = static_cast<uint32_t>(sign_bits(s[0], s[1], s[2], s[3]));
    std::memcpy(to, &bits, sizeof bits);
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    for (int i = 0; i < 4; ++i) s[i] = lanes_of(from[i]);
  }
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
  static void largest(const Values* v, stat_t* to) {
    for (int i = 0; i < 4; ++i) to[i] = largest(v[i]);
  }
  static void smallest(const Values* v, stat_t* to) {
    for (int i = 0; i < 4; ++i) to[i] = smallest(v[i]);
  }
  static void store_where(int32_t* to, Mask m, int32_t value) {
    for (int i = 0; i < 8; ++i) to[i] = m[i] ? value : to[i];
  }
  static void store_integers(int64_t* to, Values v, int64_t add) {
    for (int i = 0; i < 8; ++i) to[i] = static_cast<int64_t>(v[i]) + add;
  }
};

template <typename scalar_t>
struct VectorOf;

// Raw vectors of a scalar.
template <typename scalar, typename raw, typename raw_mask, typename base>
struct Storage : base {
  using scalar_t = scalar;
  using Raw = raw;

  static Raw load(const scalar_t* from) { return load_as<Raw>(from); }
  static Raw load_first(const scalar_t* from, int count) { return load_first_as<Raw>(from, count); }
  static Raw keep(Raw v, typename base::Sign m) {
    return reinterpret_cast<Raw>(reinterpret_cast<raw_mask>(v) & __builtin_convertvector(m, raw_mask));
  }
  static Raw choose(typename base::Sign m, Raw a, Raw b) {
    const auto lanes_of_a = __builtin_convertvector(m, raw_mask);
    return reinterpret_cast<Raw>((reinterpret_cast<raw_mask>(a) & lanes_of_a) |
                                 (reinterpret_cast<raw_mask>(b) & ~lanes_of_a));
  }
  static Raw rounded(typename base::Values v) {
    if constexpr (sizeof(scalar) == sizeof(typename base::stat_t)) {
      return v;
    } else {
      return round_lanes(v);
    }
  }
  static Raw scale(Raw v, typename base::stat_t factor) {
    return rounded(VectorOf<scalar>::values(v) * factor);
  }
  static void store(scalar_t* to, Raw v) { std::memcpy(to, &v, sizeof v); }
  static void stream(scalar_t* to, Raw v) { store(to, v); }
  static void store_first(scalar_t* to, Raw v, int count) {
    std::memcpy(to, &v, sizeof(scalar_t) * static_cast<size_t>(count));
  }

 private:
  // Not inlined: the compiler takes minutes over so many copies of its branches.
  __attribute__((noinline)) static Raw round_lanes(typename base::Values v) {
    Raw all;
    for (int i = 0; i < base::lanes; ++i) all[i] = from_float<scalar>(v[i]).bits;
    return all;
  }
};

template <>
struct VectorOf<float> : Storage<float, Float8, Int8, Lanes<float, Float8, Int8>> {
  static Values values(Raw raw) { return raw; }
  static Sign positive(Raw raw) { return raw > 0; }
};
template <>
struct VectorOf<double> : Storage<double, Double8, Long8, Lanes<double, Double8, Long8>> {
  static Values values(Raw raw) { return raw; }
  static Sign positive(Raw raw) { return raw > 0; }
};
template <>
struct VectorOf<BFloat16> : Storage<BFloat16, Short8, Short8, Lanes<float, Float8, Int8>> {
  static Values values(Raw raw) {
    return reinterpret_cast<Float8>(__builtin_convertvector(raw, UInt8) << 16);
  }
  static Sign positive(Raw raw) { return values(raw) > 0; }
};
template <>
struct VectorOf<Half> : Storage<Half, Short8, Short8, Lanes<float, Float8, Int8>> {
  // Not inlined: see round_lanes.
  __attribute__((noinline)) static Values values(Raw raw) {
    Float8 v;
    for (int i = 0; i < 8; ++i) v[i] = to_float(Half{raw[i]});
    return v;
  }
  static Sign positive(Raw raw) { return values(raw) > 0; }
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
