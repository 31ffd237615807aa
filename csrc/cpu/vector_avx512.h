// AVX-512 vectors: one register of values.

#pragma once

#include <immintrin.h>

#include "cpu/half.h"
#include "cpu/mask_bits.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

constexpr int kRowBlock = 4;
constexpr bool kStoresSigns = true;

inline uint32_t first_bits(int count) { return (1u << count) - 1; }

struct FloatLanes {  // shared by the vectors with float values
  using stat_t = float;
  using Values = __m512;
  using Mask = __mmask16;
  using Sign = __mmask16;
  static constexpr int lanes = 16;

  static void fence() { _mm_sfence(); }
  static Values broadcast(float value) { return _mm512_set1_ps(value); }
  static Values load_values(const float* from) { return _mm512_loadu_ps(from); }
  static void store_values(float* to, Values v) { _mm512_storeu_ps(to, v); }
  static Values max(Values a, Values b) { return _mm512_max_ps(a, b); }
  static Values min(Values a, Values b) { return _mm512_min_ps(a, b); }
  static Mask none() { return 0; }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Values select(Mask m, Values a, Values b) { return _mm512_mask_mov_ps(b, m, a); }
  static Mask less(Values a, Values b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask unordered(Values a, Values b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
  static Values add(Values a, Values b) { return _mm512_add_ps(a, b); }
  static Values subtract(Values a, Values b) { return _mm512_sub_ps(a, b); }
  static Values multiply(Values a, Values b) { return _mm512_mul_ps(a, b); }
  static Values divide(Values a, Values b) { return _mm512_div_ps(a, b); }
  static Values power_of_two(Values n) { return _mm512_scalef_ps(_mm512_set1_ps(1), n); }
  static uint32_t bits(Mask m) { return m; }
  static uint32_t sign_bits(Sign s) { return s; }
  static void store_signs(uint8_t* to, Sign s) { _store_mask16(reinterpret_cast<__mmask16*>(to), s); }
  static void store_signs(uint8_t* to, const Sign* s) {
    const __mmask32 low = _mm512_kunpackw(s[1], s[0]), high = _mm512_kunpackw(s[3], s[2]);
    _store_mask64(reinterpret_cast<__mmask64*>(to), _mm512_kunpackd(high, low));
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    for (int i = 0; i < 4; ++i) s[i] = lanes_of(load_bits<16>(from + 2 * i));
  }
  static Sign lanes_of(uint32_t bits) { return static_cast<Mask>(bits); }
  static float largest(Values v) { return _mm512_reduce_max_ps(v); }
  static float smallest(Values v) { return _mm512_reduce_min_ps(v); }
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
  static Values gather(const float* from, int stride) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(stride)), from, 4);
  }
  static void store_where(int32_t* to, Mask m, int32_t value) {
    _mm512_mask_storeu_epi32(to, m, _mm512_set1_epi32(value));
  }
  static void store_integers(int64_t* to, Values v, int64_t add) {
    const __m512i integers = _mm512_cvttps_epi32(v), added = _mm512_set1_epi64(add);
    const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(integers));
    const __m512i high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(integers, 1));
    _mm512_storeu_si512(to, _mm512_add_epi64(low, added));
    _mm512_storeu_si512(to + 8, _mm512_add_epi64(high, added));
  }

 private:
  // Each half of the result holds a partial reduction of the four, in order.
  template <typename Better>
  static __m256 reduce(const Values* v, Better better) {
    __m256 half[4];
    for (int i = 0; i < 4; ++i) {
      half[i] = better(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
    }
    const __m256 a = better(_mm256_unpacklo_ps(half[0], half[1]), _mm256_unpackhi_ps(half[0], half[1]));
    const __m256 b = better(_mm256_unpacklo_ps(half[2], half[3]), _mm256_unpackhi_ps(half[2], half[3]));
    return better(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  }
};

struct VectorFloat : FloatLanes {
  using scalar_t = float;
  using Raw = __m512;

  static Raw load(const float* from) { return _mm512_loadu_ps(from); }
  static Raw load_first(const float* from, int count) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(*from), static_cast<__mmask16>(first_bits(count)), from);
  }
  static Values values(Raw raw) { return raw; }
  static Raw rounded(Values v) { return v; }
  static Sign positive(Raw raw) { return _mm512_cmp_ps_mask(raw, _mm512_setzero_ps(), _CMP_NLE_UQ); }
  static Raw keep(Raw raw, Sign s) { return _mm512_maskz_mov_ps(s, raw); }
  static Raw choose(Sign s, Raw a, Raw b) { return _mm512_mask_mov_ps(b, s, a); }
  static Raw scale(Raw raw, float factor) { return _mm512_mul_ps(raw, broadcast(factor)); }
  static void store(float* to, Raw raw) { _mm512_storeu_ps(to, raw); }
  static void stream(float* to, Raw raw) { _mm512_stream_ps(to, raw); }
  static void store_first(float* to, Raw raw, int count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(first_bits(count)), raw);
  }
};

template <typename scalar>
struct Vector16Bit : FloatLanes {
  using scalar_t = scalar;
  using Raw = __m256i;

  static Raw load(const scalar_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Raw load_first(const scalar_t* from, int count) {
    return _mm256_mask_loadu_epi16(_mm256_set1_epi16(static_cast<int16_t>(from->bits)),
                                   static_cast<__mmask16>(first_bits(count)), from);
  }
  static Values values(Raw raw);
  static Raw rounded(Values v);
  // As integers; wrong for a NaN with a sign.
  static Sign positive(Raw raw) { return _mm256_cmpgt_epi16_mask(raw, _mm256_setzero_si256()); }
  static Raw keep(Raw raw, Sign s) { return _mm256_maskz_mov_epi16(s, raw); }
  static Raw choose(Sign s, Raw a, Raw b) { return _mm256_mask_mov_epi16(b, s, a); }
  static Raw scale(Raw raw, float factor) { return rounded(_mm512_mul_ps(values(raw), broadcast(factor))); }
  static void store(scalar_t* to, Raw raw) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), raw); }
  static void stream(scalar_t* to, Raw raw) { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), raw); }
  static void store_first(scalar_t* to, Raw raw, int count) {
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(first_bits(count)), raw);
  }
};
template <>
inline __m512 Vector16Bit<BFloat16>::values(__m256i raw) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
template <>
inline __m512 Vector16Bit<Half>::values(__m256i raw) {
  return _mm512_cvtph_ps(raw);
}
template <>
inline __m256i Vector16Bit<BFloat16>::rounded(__m512 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i nearest = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __m512i all = _mm512_mask_mov_epi32(nearest, unordered(v, v), _mm512_set1_epi32(0x7fc0));
  return _mm512_cvtepi32_epi16(all);
}
template <>
inline __m256i Vector16Bit<Half>::rounded(__m512 v) {
  return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

struct VectorDouble {
  using scalar_t = double;
  using stat_t = double;
  using Values = __m512d;
  using Raw = __m512d;
  using Mask = __mmask8;
  using Sign = __mmask8;
  static constexpr int lanes = 8;

  static Raw load(const double* from) { return _mm512_loadu_pd(from); }
  static Raw load_first(const double* from, int count) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(*from), static_cast<__mmask8>(first_bits(count)), from);
  }
  static Values values(Raw raw) { return raw; }
  static Raw rounded(Values v) { return v; }
  static void fence() { _mm_sfence(); }
  static Values broadcast(double value) { return _mm512_set1_pd(value); }
  static Values load_values(const double* from) { return _mm512_loadu_pd(from); }
  static void store_values(double* to, Values v) { _mm512_storeu_pd(to, v); }
  static Values max(Values a, Values b) { return _mm512_max_pd(a, b); }
  static Values min(Values a, Values b) { return _mm512_min_pd(a, b); }
  static Values gather(const double* from, int stride) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_i32gather_pd(_mm256_mullo_epi32(lane, _mm256_set1_epi32(stride)), from, 8);
  }
  static Mask none() { return 0; }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Values select(Mask m, Values a, Values b) { return _mm512_mask_mov_pd(b, m, a); }
  static Mask less(Values a, Values b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static Mask unordered(Values a, Values b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
  static Values add(Values a, Values b) { return _mm512_add_pd(a, b); }
  static Values subtract(Values a, Values b) { return _mm512_sub_pd(a, b); }
  static Values multiply(Values a, Values b) { return _mm512_mul_pd(a, b); }
  static Values divide(Values a, Values b) { return _mm512_div_pd(a, b); }
  static Values power_of_two(Values n) { return _mm512_scalef_pd(_mm512_set1_pd(1), n); }
  static Sign positive(Raw v) { return _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NLE_UQ); }
  static uint32_t bits(Mask m) { return m; }
  static uint32_t sign_bits(Sign s) { return s; }
  static void store_signs(uint8_t* to, Sign s) { _store_mask8(reinterpret_cast<__mmask8*>(to), s); }
  static void store_signs(uint8_t* to, const Sign* s) {
    for (int i = 0; i < 4; ++i) store_signs(to + i, s[i]);
  }
  static void load_signs(const uint8_t* from, Sign* s) {
    for (int i = 0; i < 4; ++i) s[i] = lanes_of(from[i]);
  }
  static Sign lanes_of(uint32_t bits) { return static_cast<Mask>(bits); }
  static double largest(Values v) { return _mm512_reduce_max_pd(v); }
  static double smallest(Values v) { return _mm512_reduce_min_pd(v); }
  static void largest(const Values* v, double* to) {
    for (int i = 0; i < 4; ++i) to[i] = largest(v[i]);
  }
  static void smallest(const Values* v, double* to) {
    for (int i = 0; i < 4; ++i) to[i] = smallest(v[i]);
  }
  static void store_where(int32_t* to, Mask m, int32_t value) {
    _mm256_mask_storeu_epi32(to, m, _mm256_set1_epi32(value));
  }
  static void store_integers(int64_t* to, Values v, int64_t add) {
    _mm512_storeu_si512(to, _mm512_add_epi64(_mm512_cvttpd_epi64(v), _mm512_set1_epi64(add)));
  }
  static Raw keep(Raw raw, Sign s) { return _mm512_maskz_mov_pd(s, raw); }
  static Raw choose(Sign s, Raw a, Raw b) { return _mm512_mask_mov_pd(b, s, a); }
  static Raw scale(Raw raw, double factor) { return _mm512_mul_pd(raw, broadcast(factor)); }
  static void store(double* to, Raw raw) { _mm512_storeu_pd(to, raw); }
  static void stream(double* to, Raw raw) { _mm512_stream_pd(to, raw); }
  static void store_first(double* to, Raw raw, int count) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(first_bits(count)), raw);
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
