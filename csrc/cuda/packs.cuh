// Packs: what one instruction compares, one value or two 16-bit ones. A mask has all bits of a value set or
// none.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/device.cuh"

namespace jumpstart {
namespace cuda {

// Storage of 16-bit floats.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename To, typename From>
JUMPSTART_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

JUMPSTART_DEVICE float to_stat(float x) { return x; }
JUMPSTART_DEVICE double to_stat(double x) { return x; }
JUMPSTART_DEVICE float to_stat(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
JUMPSTART_DEVICE float to_stat(Half x) { return __half2float(bit_cast<__half>(x.bits)); }

template <typename scalar_t>
using stat_of = std::conditional_t<std::is_same<scalar_t, double>::value, double, float>;

template <typename scalar_t>
JUMPSTART_DEVICE scalar_t from_stat(stat_of<scalar_t> x) {
  return x;
}
template <>
JUMPSTART_DEVICE BFloat16 from_stat<BFloat16>(float x) {
  return {bit_cast<uint16_t>(__float2bfloat16_rn(x))};
}
template <>
JUMPSTART_DEVICE Half from_stat<Half>(float x) {
  return {bit_cast<uint16_t>(__float2half_rn(x))};
}

// One value; its mask is a bool, its place an integer. Raw and Sign are the names that activations.h uses.
template <typename scalar_t>
struct Pack {
  using stat_t = stat_of<scalar_t>;
  using Value = stat_t;
  using Place = int32_t;
  using Mask = bool;
  using Raw = Value;
  using Sign = Mask;
  static constexpr int kValues = 1;

  JUMPSTART_DEVICE static Value from_element(scalar_t x) { return x; }
  JUMPSTART_DEVICE static scalar_t to_element(Value pack) { return pack; }
  JUMPSTART_DEVICE static Value fill(stat_t x) { return x; }
  JUMPSTART_DEVICE static stat_t get(Value pack, int) { return pack; }
  JUMPSTART_DEVICE static int32_t get_place(Place place, int) { return place; }
  JUMPSTART_DEVICE static Place fill_place(int32_t place) { return place; }

  // NaN if either is.
  JUMPSTART_DEVICE static float max(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#else
    return a > b || a != a ? a : b;
#endif
  }
  JUMPSTART_DEVICE static float min(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    float result;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
#else
    return a < b || a != a ? a : b;
#endif
  }
  JUMPSTART_DEVICE static double max(double a, double b) { return a > b || a != a ? a : b; }
  JUMPSTART_DEVICE static double min(double a, double b) { return a < b || a != a ? a : b; }

  JUMPSTART_DEVICE static Mask equal(Value a, Value b) { return a == b; }
  JUMPSTART_DEVICE static Mask greater(Value a, Value b) { return a > b; }
  JUMPSTART_DEVICE static Mask positive(Value a) { return !(a <= 0); }
  JUMPSTART_DEVICE static Mask nan(Value a) { return a != a; }
  JUMPSTART_DEVICE static Mask both(Mask a, Mask b) { return a && b; }
  JUMPSTART_DEVICE static Mask negate(Mask a) { return !a; }
  JUMPSTART_DEVICE static bool any(Mask mask) { return mask; }
  JUMPSTART_DEVICE static bool test(Mask mask, int) { return mask; }
  template <typename T>  // values or places
  JUMPSTART_DEVICE static T choose(Mask mask, T a, T b) {
    return mask ? a : b;
  }
  JUMPSTART_DEVICE static Value keep(Value a, Mask mask) { return mask ? a : Value{0}; }
  JUMPSTART_DEVICE static Value scale(Value a, stat_t factor) { return a * factor; }
  JUMPSTART_DEVICE static Value sum(Value a, Value b) { return a + b; }
  // The mask of a pack from the bits of a vector.
  JUMPSTART_DEVICE static Mask from_bits(uint32_t bits, int pack) { return bits >> pack & 1; }
  // The bits of a vector from the masks of its packs.
  template <int packs>
  JUMPSTART_DEVICE static uint32_t to_bits(const Mask (&masks)[packs]) {
    uint32_t bits = 0;
#pragma unroll
    for (int p = 0; p < packs; ++p) bits |= static_cast<uint32_t>(masks[p]) << p;
    return bits;
  }
};

// Two 16-bit values in a register.
template <typename scalar_t, typename Pair>
struct PairPack {
  using stat_t = float;
  using Value = uint32_t;
  using Place = uint32_t;
  using Mask = uint32_t;
  using Raw = Value;
  using Sign = Mask;
  static constexpr int kValues = 2;

  JUMPSTART_DEVICE static Pair open(Value pack) { return bit_cast<Pair>(pack); }
  JUMPSTART_DEVICE static Value close(Pair pack) { return bit_cast<Value>(pack); }

  // A single element is the first of its pair.
  JUMPSTART_DEVICE static Value from_element(scalar_t x) { return x.bits; }
  JUMPSTART_DEVICE static scalar_t to_element(Value pack) { return {static_cast<uint16_t>(pack)}; }
  JUMPSTART_DEVICE static Value fill(float x) { return from_stat<scalar_t>(x).bits * 0x10001u; }
  JUMPSTART_DEVICE static float get(Value pack, int i) {
    return to_stat(scalar_t{static_cast<uint16_t>(pack >> 16 * i)});
  }
  JUMPSTART_DEVICE static int32_t get_place(Place place, int i) {
    return static_cast<int32_t>(place >> 16 * i & 0xffffu);
  }
  JUMPSTART_DEVICE static Place fill_place(int32_t place) { return static_cast<uint32_t>(place) * 0x10001u; }

  JUMPSTART_DEVICE static Value max(Value a, Value b) { return close(__hmax2_nan(open(a), open(b))); }
  JUMPSTART_DEVICE static Value min(Value a, Value b) { return close(__hmin2_nan(open(a), open(b))); }
  JUMPSTART_DEVICE static Mask equal(Value a, Value b) { return __heq2_mask(open(a), open(b)); }
  JUMPSTART_DEVICE static Mask greater(Value a, Value b) { return __hgt2_mask(open(a), open(b)); }
  JUMPSTART_DEVICE static Mask positive(Value a) { return __hgtu2_mask(open(a), open(0)); }
  JUMPSTART_DEVICE static Mask nan(Value a) { return __hneu2_mask(open(a), open(a)); }
  JUMPSTART_DEVICE static Mask both(Mask a, Mask b) { return a & b; }
  JUMPSTART_DEVICE static Mask negate(Mask a) { return ~a; }
  JUMPSTART_DEVICE static bool any(Mask mask) { return mask != 0; }
  JUMPSTART_DEVICE static bool test(Mask mask, int i) { return mask >> 16 * i & 1; }
  JUMPSTART_DEVICE static uint32_t choose(Mask mask, uint32_t a, uint32_t b) {  // values or places
    return (mask & a) | (~mask & b);
  }
  JUMPSTART_DEVICE static Value keep(Value a, Mask mask) { return mask & a; }
  // As a sum of floats that is rounded: they have bits enough for the first rounding to change nothing.
  JUMPSTART_DEVICE static Value sum(Value a, Value b) { return close(__hadd2_rn(open(a), open(b))); }
  JUMPSTART_DEVICE static Value scale(Value a, float factor) {
    const uint32_t first = from_stat<scalar_t>(get(a, 0) * factor).bits;
    const uint32_t second = from_stat<scalar_t>(get(a, 1) * factor).bits;
    return second << 16 | first;
  }
  JUMPSTART_DEVICE static Mask from_bits(uint32_t bits, int pack) {
    const uint32_t pair = bits >> 2 * pack;
    return (pair & 1) * 0xffffu + (pair >> 1 & 1) * 0xffff0000u;
  }
  template <int packs>
  JUMPSTART_DEVICE static uint32_t to_bits(const Mask (&masks)[packs]) {
    uint32_t bits = 0;  // low half: those of the first values; high half: of the second
#pragma unroll
    for (int p = 0; p < packs; ++p) bits |= masks[p] & (0x00020001u << 2 * p);
    return (bits | bits >> 16) & 0xffffu;
  }
};
template <>
struct Pack<Half> : PairPack<Half, __half2> {};
template <>
struct Pack<BFloat16> : PairPack<BFloat16, __nv_bfloat162> {};

// kElements neighbors in a matrix row, as a thread loads them: 16 bytes, or one element if rows are not
// aligned to 16 bytes. A single 16-bit element is converted to float.
template <typename scalar_t, int elements>
struct Vector {
  using stat_t = stat_of<scalar_t>;
  using P = Pack<std::conditional_t<elements == 1, stat_t, scalar_t>>;
  using Value = typename P::Value;
  static constexpr int kElements = elements;
  static constexpr int kPacks = elements / P::kValues;

  JUMPSTART_DEVICE static void load(const scalar_t* from, Value (&packs)[kPacks]) {
    if constexpr (elements == 1) {
      packs[0] = to_stat(*from);
    } else {
      static_assert(sizeof packs == 16, "");
      const uint4 raw = *reinterpret_cast<const uint4*>(from);
      memcpy(packs, &raw, sizeof raw);
    }
  }
  // From memory of any alignment.
  JUMPSTART_DEVICE static void load_apart(const scalar_t* from, Value (&packs)[kPacks]) {
    if constexpr (elements == 1) {
      load(from, packs);
    } else {
      scalar_t values[elements];
#pragma unroll
      for (int e = 0; e < elements; ++e) values[e] = from[e];
      memcpy(packs, values, sizeof packs);
    }
  }
  // An element as it is stored.
  JUMPSTART_DEVICE static stat_t element(const Value (&packs)[kPacks], int e) {
    if constexpr (elements == 1) {
      return to_stat(from_stat<scalar_t>(packs[0]));
    } else {
      return P::get(packs[e / P::kValues], e % P::kValues);
    }
  }
  // An element, which if single need not be rounded to scalar_t.
  JUMPSTART_DEVICE static stat_t get(const Value (&packs)[kPacks], int e) {
    return P::get(packs[e / P::kValues], e % P::kValues);
  }
  // The sum of two packs, rounded to scalar_t.
  JUMPSTART_DEVICE static Value sum(Value a, Value b) {
    if constexpr (elements == 1) {
      return to_stat(from_stat<scalar_t>(a + b));
    } else {
      return P::sum(a, b);
    }
  }
  JUMPSTART_DEVICE static void store(scalar_t* to, const Value (&packs)[kPacks]) {
    if constexpr (elements == 1) {
      *to = from_stat<scalar_t>(packs[0]);
    } else {
      uint4 raw;
      memcpy(&raw, packs, sizeof raw);
      *reinterpret_cast<uint4*>(to) = raw;
    }
  }
  JUMPSTART_DEVICE static void store_rounded(scalar_t* to, const stat_t (&values)[kElements]) {
    if constexpr (elements == 1) {
      *to = from_stat<scalar_t>(values[0]);
    } else {
      scalar_t rounded[elements];
#pragma unroll
      for (int e = 0; e < elements; ++e) rounded[e] = from_stat<scalar_t>(values[e]);
      uint4 raw;
      memcpy(&raw, rounded, sizeof raw);
      *reinterpret_cast<uint4*>(to) = raw;
    }
  }
};

}  // namespace cuda
}  // namespace jumpstart
