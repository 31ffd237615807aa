// AVX2 vectors of eight values: two registers for double. A Mask or Sign has all bits of a lane set, or none.

#pragma once

#include <immintrin.h>

#include "cpu/half.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

constexpr int kRowBlock = 2;
constexpr bool kStoresSigns = false;

struct FloatLanes {  // shared by the vectors with float values
  using stat_t = float;
  using Values = __m256;
  using Mask = __m256;
  static constexpr int lanes = 8;

  static void fence() { _mm_sfence(); }
  static Values broadcast(float value) { return _mm256_set1_ps(value); }
  static Values load_values(const float* from) { return _mm256_loadu_ps(from); }
  static void store_values(float* to, Values v) { _mm256_storeu_ps(to, v); }
  static Values gather(const float* from, int stride) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_i32gather_ps(from, _mm256_mullo_epi32(lane, _mm256_set1_epi32(stride)), 4);
  }
  static Values max(Values a, Values b) { return _mm256_max_ps(a, b); }
  static Values min(Values a, Values b) { return _mm256_min_ps(a, b); }
  static Mask none() { return _mm256_setzero_ps(); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Values select(Mask m, Values a, Values b) { return _mm256_blendv_ps(b, a, m); }
  static Mask less(Values a, Values b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask unordered(Values a, Values b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
  static Values add(Values a, Values b) { return _mm256_add_ps(a, b); }
  static Values subtract(Values a, Values b) { return _mm256_sub_ps(a, b); }
  static Values multiply(Values a, Values b) { return _mm256_mul_ps(a, b); }
  static Values divide(Values a, Values b) { return _mm256_div_ps(a, b); }
  static Values power_of_two(Values n) {  // 2^23 aligns the biased exponent with the last bit
    const __m256i biased = _mm256_castps_si256(_mm256_add_ps(n, _mm256_set1_ps(8388608 + 127)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  static uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
  static float largest(Values v) {
    return reduce(v, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
  }
  static float smallest(Values v) {
    return reduce(v, [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
  }
  static void largest(const Values* v, float* to) {
    const auto max = [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); };
    const __m256 both = reduce(v, max);
    _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
  }
  static void smallest(const Values* v, float* to) {
    const auto min = [](__m256 a, __m256 b) { return _mm256_min_ps(a, b); };
    const __m256 both = reduce(v, min);
    _mm_storeu_ps(to, _mm_min_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
  }
  static void store_where(int32_t* to, Mask m, int32_t value) {
    const __m256i old = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
    const __m256i mixed = _mm256_blendv_epi8(old, _mm256_set1_epi32(value), _mm256_castps_si256(m));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), mixed);
  }
  static void store_integers(int64_t* to, Values v, int64_t add) {
    const __m256i integers = _mm256_cvttps_epi32(v);
    store_integers(to, _mm256_castsi256_si128(integers), add);
    store_integers(to + 4, _mm256_extracti128_si256(integers, 1), add);
  }
  static void store_integers(int64_t* to, __m128i v, int64_t add) {
    const __m256i sum = _mm256_add_epi64(_mm256_cvtepi32_epi64(v), _mm256_set1_epi64x(add));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sum);
  }

 private:
  template <typename Better>
  static float reduce(Values v, Better better) {
    __m128 half = better(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = better(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(better(half, _mm_movehdup_ps(half)));
  }
  // Each half of the result holds a partial reduction of the four, in order.
  template <typename Better>
  static Values reduce(const Values* v, Better better) {
    const __m256 a = better(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
    const __m256 b = better(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
    return better(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  }
};

struct VectorFloat : FloatLanes {
  using scalar_t = float;
  using Raw = __m256;
  using Sign = __m256i;

  static Raw load(const float* from) { return _mm256_loadu_ps(from); }
  static Raw load_first(const float* from, int count) {
    const __m256i mask = lanes_of((1u << count) - 1);
    return _mm256_blendv_ps(_mm256_set1_ps(*from), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
  }
  static Values values(Raw raw) { return raw; }
  static Raw rounded(Values v) { return v; }
  // As integers, which use otherwise idle execution units; wrong for a NaN with a sign.
  static Sign positive(Raw raw) {
    return _mm256_cmpgt_epi32(_mm256_castps_si256(raw), _mm256_setzero_si256());
  }
  static Sign lanes_of(uint32_t bits) {
    const __m256i place = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), place), place);
  }
  static uint32_t sign_bits(Sign s) { return FloatLanes::bits(_mm256_castsi256_ps(s)); }
  static uint64_t sign_bits(Sign a, Sign b, Sign c, Sign d) {
    const __m256i all = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(all, order)));
  }
  static void store_signs(uint8_t* to, const Sign* s) {
    const auto bits = static_cast<uint32_t>(sign_bits(s[0], s[1], s[2], s[3]));
    std::memcpy(to, &bits, sizeof bits);
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    int bits;
    std::memcpy(&bits, from, sizeof bits);
    const __m256i all = _mm256_set1_epi32(bits), first = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (int i = 0; i < 4; ++i) {
      const __m256i place = _mm256_slli_epi32(first, 8 * i);
      s[i] = _mm256_cmpeq_epi32(_mm256_and_si256(all, place), place);
    }
  }
  static Raw keep(Raw raw, Sign s) { return _mm256_and_ps(raw, _mm256_castsi256_ps(s)); }
  static Raw choose(Sign s, Raw a, Raw b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(s)); }
  static Raw scale(Raw raw, float factor) { return _mm256_mul_ps(raw, broadcast(factor)); }
  static void store(float* to, Raw raw) { _mm256_storeu_ps(to, raw); }
  static void stream(float* to, Raw raw) { _mm256_stream_ps(to, raw); }
  static void store_first(float* to, Raw raw, int count) {
    _mm256_maskstore_ps(to, lanes_of((1u << count) - 1), raw);
  }
};

template <typename scalar>
struct Vector16Bit : FloatLanes {
  using scalar_t = scalar;
  using Raw = __m128i;
  using Sign = __m128i;

  static Raw load(const scalar_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
  static Raw load_first(const scalar_t* from, int count) {
    scalar_t padded[lanes];
    for (int i = 0; i < lanes; ++i) padded[i] = from[i < count ? i : 0];
    return load(padded);
  }
  static Values values(Raw raw);
  static Raw rounded(Values v);
  static Sign positive(Raw raw) { return _mm_cmpgt_epi16(raw, _mm_setzero_si128()); }
  static Sign lanes_of(uint32_t bits) {
    const __m128i place = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16(static_cast<int16_t>(bits)), place), place);
  }
  static uint32_t sign_bits(Sign s) {
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(s, _mm_setzero_si128())));
  }
  static uint64_t sign_bits(Sign a, Sign b, Sign c, Sign d) {
    const auto low = static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(a, b)));
    return low | static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(c, d))) << 16;
  }
  static void store_signs(uint8_t* to, const Sign* s) {
    const auto bits = static_cast<uint32_t>(sign_bits(s[0], s[1], s[2], s[3]));
    std::memcpy(to, &bits, sizeof bits);
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    for (int i = 0; i < 4; ++i) s[i] = lanes_of(from[i]);
  }
  static Raw keep(Raw raw, Sign s) { return _mm_and_si128(raw, s); }
  static Raw choose(Sign s, Raw a, Raw b) { return _mm_blendv_epi8(b, a, s); }
  static Raw scale(Raw raw, float factor) { return rounded(_mm256_mul_ps(values(raw), broadcast(factor))); }
  static void store(scalar_t* to, Raw raw) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), raw); }
  static void stream(scalar_t* to, Raw raw) { _mm_stream_si128(reinterpret_cast<__m128i*>(to), raw); }
  static void store_first(scalar_t* to, Raw raw, int count) {
    scalar_t all[lanes];
    store(all, raw);
    std::memcpy(to, all, sizeof(scalar_t) * static_cast<size_t>(count));
  }
};
template <>
inline __m256 Vector16Bit<BFloat16>::values(__m128i raw) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
template <>
inline __m256 Vector16Bit<Half>::values(__m128i raw) {
  return _mm256_cvtph_ps(raw);
}
template <>
inline __m128i Vector16Bit<BFloat16>::rounded(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  const __m256i nan = _mm256_castps_si256(unordered(v, v));
  const __m256i all = _mm256_blendv_epi8(nearest, _mm256_set1_epi32(0x7fc0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}
template <>
inline __m128i Vector16Bit<Half>::rounded(__m256 v) {
  return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

struct Doubles {  // the first four values, the last four
  __m256d low, high;
};

struct VectorDouble {
  using scalar_t = double;
  using stat_t = double;
  using Values = Doubles;
  using Raw = Doubles;
  using Mask = Doubles;
  using Sign = Doubles;
  static constexpr int lanes = 8;

  static Raw load(const double* from) { return {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)}; }
  static Raw load_first(const double* from, int count) {
    double padded[lanes];
    for (int i = 0; i < lanes; ++i) padded[i] = from[i < count ? i : 0];
    return load(padded);
  }
  static Values values(Raw raw) { return raw; }
  static Raw rounded(Values v) { return v; }
  static void fence() { _mm_sfence(); }
  static Values broadcast(double value) { return {_mm256_set1_pd(value), _mm256_set1_pd(value)}; }
  static Values load_values(const double* from) { return load(from); }
  static void store_values(double* to, Values v) { store(to, v); }
  static Values gather(const double* from, int stride) {
    const __m128i place = _mm_mullo_epi32(_mm_setr_epi32(0, 1, 2, 3), _mm_set1_epi32(stride));
    return {_mm256_i32gather_pd(from, place, 8), _mm256_i32gather_pd(from + 4 * stride, place, 8)};
  }
  static Values max(Values a, Values b) {
    return {_mm256_max_pd(a.low, b.low), _mm256_max_pd(a.high, b.high)};
  }
  static Values min(Values a, Values b) {
    return {_mm256_min_pd(a.low, b.low), _mm256_min_pd(a.high, b.high)};
  }
  static Mask none() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
  static Mask either(Mask a, Mask b) { return {_mm256_or_pd(a.low, b.low), _mm256_or_pd(a.high, b.high)}; }
  static Values select(Mask m, Values a, Values b) {
    return {_mm256_blendv_pd(b.low, a.low, m.low), _mm256_blendv_pd(b.high, a.high, m.high)};
  }
  static Mask less(Values a, Values b) {
    return {_mm256_cmp_pd(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_pd(a.high, b.high, _CMP_LT_OQ)};
  }
  static Mask unordered(Values a, Values b) {
    return {_mm256_cmp_pd(a.low, b.low, _CMP_UNORD_Q), _mm256_cmp_pd(a.high, b.high, _CMP_UNORD_Q)};
  }
  static Values add(Values a, Values b) {
    return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
  }
  static Values subtract(Values a, Values b) {
    return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)};
  }
  static Values multiply(Values a, Values b) {
    return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)};
  }
  static Values divide(Values a, Values b) {
    return {_mm256_div_pd(a.low, b.low), _mm256_div_pd(a.high, b.high)};
  }
  static Values power_of_two(Values n) {
    const auto four = [](__m256d some) {  // 2^52 aligns the biased exponent with the last bit
      const __m256i biased =
          _mm256_castpd_si256(_mm256_add_pd(some, _mm256_set1_pd(4503599627370496 + 1023)));
      return _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52));
    };
    return {four(n.low), four(n.high)};
  }
  static Sign positive(Raw v) {
    const __m256d zero = _mm256_setzero_pd();
    return {_mm256_cmp_pd(v.low, zero, _CMP_NLE_UQ), _mm256_cmp_pd(v.high, zero, _CMP_NLE_UQ)};
  }
  static uint32_t bits(Mask m) {
    return static_cast<uint32_t>(_mm256_movemask_pd(m.low) | _mm256_movemask_pd(m.high) << 4);
  }
  static uint32_t sign_bits(Sign s) { return bits(s); }
  static uint64_t sign_bits(Sign a, Sign b, Sign c, Sign d) {
    return bits(a) | bits(b) << 8 | bits(c) << 16 | bits(d) << 24;
  }
  static Sign lanes_of(uint32_t bits) {
    const auto four = [](uint32_t some) {
      const __m256i place = _mm256_setr_epi64x(1, 2, 4, 8);
      const __m256i spread = _mm256_and_si256(_mm256_set1_epi64x(some), place);
      return _mm256_castsi256_pd(_mm256_cmpeq_epi64(spread, place));
    };
    return {four(bits), four(bits >> 4)};
  }
  static void store_signs(uint8_t* to, const Sign* s) {
    const auto bits = static_cast<uint32_t>(sign_bits(s[0], s[1], s[2], s[3]));
    std::memcpy(to, &bits, sizeof bits);
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    for (int i = 0; i < 4; ++i) s[i] = lanes_of(from[i]);
  }
  static Raw keep(Raw raw, Sign m) {
    return {_mm256_and_pd(raw.low, m.low), _mm256_and_pd(raw.high, m.high)};
  }
  static Raw choose(Sign m, Raw a, Raw b) {
    return {_mm256_blendv_pd(b.low, a.low, m.low), _mm256_blendv_pd(b.high, a.high, m.high)};
  }
  static Raw scale(Raw raw, double factor) {
    const __m256d all = _mm256_set1_pd(factor);
    return {_mm256_mul_pd(raw.low, all), _mm256_mul_pd(raw.high, all)};
  }
  static void store(double* to, Raw raw) {
    _mm256_storeu_pd(to, raw.low);
    _mm256_storeu_pd(to + 4, raw.high);
  }
  static void stream(double* to, Raw raw) {
    _mm256_stream_pd(to, raw.low);
    _mm256_stream_pd(to + 4, raw.high);
  }
  static void store_first(double* to, Raw raw, int count) {
    double all[lanes];
    store(all, raw);
    std::memcpy(to, all, sizeof(double) * static_cast<size_t>(count));
  }
  static double largest(Values v) {
    const __m256d both = _mm256_max_pd(v.low, v.high);
    const __m128d half = _mm_max_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(_mm_max_sd(half, _mm_unpackhi_pd(half, half)));
  }
  static double smallest(Values v) {
    const __m256d both = _mm256_min_pd(v.low, v.high);
    const __m128d half = _mm_min_pd(_mm256_castpd256_pd128(both), _mm256_extractf128_pd(both, 1));
    return _mm_cvtsd_f64(_mm_min_sd(half, _mm_unpackhi_pd(half, half)));
  }
  static void largest(const Values* v, double* to) {
    for (int i = 0; i < 4; ++i) to[i] = largest(v[i]);
  }
  static void smallest(const Values* v, double* to) {
    for (int i = 0; i < 4; ++i) to[i] = smallest(v[i]);
  }
  static void store_where(int32_t* to, Mask m, int32_t value) {
    for (uint32_t left = bits(m); left; left &= left - 1) to[__builtin_ctz(left)] = value;
  }
  static void store_integers(int64_t* to, Values v, int64_t add) {
    FloatLanes::store_integers(to, _mm256_cvttpd_epi32(v.low), add);
    FloatLanes::store_integers(to + 4, _mm256_cvttpd_epi32(v.high), add);
  }
};

template <typename scalar_t>
struct VectorOf;
template <>
struct VectorOf<float> : VectorFloat {};
template <>
struct VectorOf<double> : VectorDouble {};
template <>
struct VectorOf<Half> : Vector16Bit<Half> {};
template <>
struct VectorOf<BFloat16> : Vector16Bit<BFloat16> {};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
