// Vectors of AVX-512: one register of values, their raw bits beside it where the scalar is 16 bits wide.

#pragma once

#include <immintrin.h>

#include "cpu/half.h"

namespace jumpstart {
namespace avx512 {

constexpr int kRowBlock = 8;

inline uint32_t first_bits(int count) { return (1u << count) - 1; }

struct Float16Lanes {  // what the vectors with 16 float values share
  using stat_t = float;
  using Values = __m512;
  static constexpr int lanes = 16;

  static Values broadcast(float value) { return _mm512_set1_ps(value); }
  static Values load_values(const float* from) { return _mm512_loadu_ps(from); }
  static void store_values(float* to, Values v) { _mm512_storeu_ps(to, v); }
  static Values max(Values a, Values b) { return _mm512_max_ps(a, b); }
  static Values min(Values a, Values b) { return _mm512_min_ps(a, b); }
  static uint32_t less(Values a, Values b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static uint32_t unordered(Values a, Values b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
  static uint32_t positive(Values v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NLE_UQ); }
  static float largest(Values v) { return _mm512_reduce_max_ps(v); }
  static float smallest(Values v) { return _mm512_reduce_min_ps(v); }
  static void store_where(int32_t* to, uint32_t bits, int32_t value) {
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(bits), _mm512_set1_epi32(value));
  }
  static void store_mask(uint8_t* to, uint32_t bits, int bytes) {
    const auto both = static_cast<uint16_t>(bits);
    std::memcpy(to, &both, bytes > 1 ? 2 : 1);
  }
  static uint32_t load_mask(const uint8_t* from, int bytes) {
    uint16_t both = 0;
    std::memcpy(&both, from, bytes > 1 ? 2 : 1);
    return both;
  }
};

struct VectorFloat : Float16Lanes {
  using scalar_t = float;
  using Raw = __m512;

  static Raw load(const float* from) { return _mm512_loadu_ps(from); }
  // Lanes beyond the count repeat the first, which changes no extremum.
  static Raw load_first(const float* from, int count) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(*from), static_cast<__mmask16>(first_bits(count)), from);
  }
  static Values values(Raw raw) { return raw; }
  static void store_where_set(float* to, Raw raw, uint32_t bits) {
    _mm512_storeu_ps(to, _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), raw));
  }
  static void store_first_where_set(float* to, Raw raw, uint32_t bits, int count) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(first_bits(count)),
                          _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), raw));
  }
};

template <typename scalar>
struct Vector16Bit : Float16Lanes {
  using scalar_t = scalar;
  using Raw = __m256i;

  static Raw load(const scalar_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Raw load_first(const scalar_t* from, int count) {
    return _mm256_mask_loadu_epi16(_mm256_set1_epi16(static_cast<int16_t>(from->bits)),
                                   static_cast<__mmask16>(first_bits(count)), from);
  }
  static Values values(Raw raw);
  static void store_where_set(scalar_t* to, Raw raw, uint32_t bits) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_maskz_mov_epi16(static_cast<__mmask16>(bits), raw));
  }
  static void store_first_where_set(scalar_t* to, Raw raw, uint32_t bits, int count) {
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(first_bits(count)),
                             _mm256_maskz_mov_epi16(static_cast<__mmask16>(bits), raw));
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

struct VectorDouble {
  using scalar_t = double;
  using stat_t = double;
  using Values = __m512d;
  using Raw = __m512d;
  static constexpr int lanes = 8;

  static Raw load(const double* from) { return _mm512_loadu_pd(from); }
  static Raw load_first(const double* from, int count) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(*from), static_cast<__mmask8>(first_bits(count)), from);
  }
  static Values values(Raw raw) { return raw; }
  static Values broadcast(double value) { return _mm512_set1_pd(value); }
  static Values load_values(const double* from) { return _mm512_loadu_pd(from); }
  static void store_values(double* to, Values v) { _mm512_storeu_pd(to, v); }
  static Values max(Values a, Values b) { return _mm512_max_pd(a, b); }
  static Values min(Values a, Values b) { return _mm512_min_pd(a, b); }
  static uint32_t less(Values a, Values b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static uint32_t unordered(Values a, Values b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
  static uint32_t positive(Values v) { return _mm512_cmp_pd_mask(v, _mm512_setzero_pd(), _CMP_NLE_UQ); }
  static double largest(Values v) { return _mm512_reduce_max_pd(v); }
  static double smallest(Values v) { return _mm512_reduce_min_pd(v); }
  static void store_where(int32_t* to, uint32_t bits, int32_t value) {
    _mm256_mask_storeu_epi32(to, static_cast<__mmask8>(bits), _mm256_set1_epi32(value));
  }
  static void store_mask(uint8_t* to, uint32_t bits, int) { *to = static_cast<uint8_t>(bits); }
  static uint32_t load_mask(const uint8_t* from, int) { return *from; }
  static void store_where_set(double* to, Raw raw, uint32_t bits) {
    _mm512_storeu_pd(to, _mm512_maskz_mov_pd(static_cast<__mmask8>(bits), raw));
  }
  static void store_first_where_set(double* to, Raw raw, uint32_t bits, int count) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>(first_bits(count)),
                          _mm512_maskz_mov_pd(static_cast<__mmask8>(bits), raw));
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

}  // namespace avx512
}  // namespace jumpstart
