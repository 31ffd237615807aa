// Vectors of the instruction set that is compiled for; JUMPSTART_ISA is its namespace.
//
// VectorOf<scalar_t> has so many `lanes`, and these types:
//   scalar_t          float, double, Half or BFloat16
//   stat_t, Values    what statistics are made of: float, or double for double; a vector of it
//   Mask              true or false for each of the Values
//   Raw               a vector of the scalars, as they lie in memory
//   Sign              true or false for each of the Raw ones
//
// Raw, what activations see:
//   load, store, stream          a whole vector; stream past the caches, aligned, with a fence() at the end
//   load_first, store_first      of the first `count` lanes alone; those beyond repeat the first, which
//   changes no
//                                extremum
//   positive(raw)                unless it is <= 0; of a NaN, whatever is fastest
//   keep(raw, sign)              zero where the sign is false
//   choose(sign, a, b)           a where it is true, b elsewhere
//   scale(raw, factor)           the product with a stat_t, rounded to the scalar, to even between two
//   sign_bits, lanes_of          of a Sign (or four, one behind the other) the bits, the lowest lane first;
//   and back values(raw)                  as Values, exact
//
// Values, what extrema are found with:
//   broadcast, load_values, store_values, gather(from, stride)
//   max, min, add                lane by lane; max and min may lose a NaN
//   less, unordered              Masks; unordered where one of the two is NaN
//   none, either, bits           of Masks
//   largest, smallest            of a vector; of four, to four neighbours
//   store_where(to, mask, value) an int32_t
//
// kRowBlock is how many rows fit into the registers at once.

#pragma once

#if defined(__AVX512F__)
#include "cpu/vector_avx512.h"
#elif defined(__AVX2__)
#include "cpu/vector_avx2.h"
#else
#include "cpu/vector_generic.h"
#endif

// What is kept for each row of a block stays in registers only if these loops are gone.
#define JUMPSTART_UNROLL _Pragma("GCC unroll 16")
