// Vectors of the instruction set that is compiled for, in the namespace JUMPSTART_ISA.
//
// VectorOf<scalar_t> has a number of `lanes` and the types
//   scalar_t        float, double, Half or BFloat16
//   stat_t, Values  the type of statistics, float or double (for double), and a vector of it
//   Mask            a flag per lane of Values
//   Raw             a vector of scalars, as stored
//   Sign            a flag per lane of Raw
//
// Raw vectors, for the activations (see activations.h):
//   load, store, stream      a whole vector; stream bypasses the caches, is aligned, and ends with fence()
//   load_first, store_first  the first `count` lanes; the others repeat the first, which changes no extremum
//   positive(raw)            the lanes that are not <= 0; anything for NaN
//   keep(raw, sign)          0 where the flag is not set
//   choose(sign, a, b)       a where the flag is set, else b
//   scale(raw, factor)       the product with a stat_t, rounded to nearest even
//   sign_bits, lanes_of      from a Sign to mask bits, lowest lane first, and back
//   store_signs, load_signs  the bits of four adjacent vectors; or of one, if kStoresSigns
//   values(raw), rounded(v)  as Values, exactly, and back, to nearest even
//
// Values, for the extrema:
//   broadcast, load_values, store_values, gather(from, stride)
//   max, min, add                 by lane; max and min may lose NaN
//   subtract, multiply, divide, power_of_two  by lane, see linked_activations.h
//   less, unordered               to a Mask; unordered: one of the two is NaN
//   none, either, bits            of Masks
//   select(mask, a, b)            a where the flag is set, else b
//   largest, smallest             across the lanes of one vector, or of four at once
//   store_where(to, mask, value)  an int32_t
//   store_integers(to, v, add)    v, which is whole and fits into 32 bits, as int64_t, with `add` added
//
// kRowBlock is the number of rows that the registers have room for.

#pragma once

#if defined(__AVX512F__)
#include "cpu/vector_avx512.h"
#elif defined(__AVX2__)
#include "cpu/vector_avx2.h"
#else
#include "cpu/vector_generic.h"
#endif

// Arrays over the rows of a block stay in registers only if the loops over them are unrolled.
#define JUMPSTART_UNROLL _Pragma("GCC unroll 16")

// A lambda in a loop over vectors, whose width is then a constant.
#define JUMPSTART_INLINE_LAMBDA __attribute__((always_inline))
