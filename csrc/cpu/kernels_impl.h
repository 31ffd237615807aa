// The kernels of one instruction set, included once by its file after its vectors.

#include <limits>

#include "cpu/kernels.h"

// What is kept for each row of a block stays in registers only if these loops are gone.
#define JUMPSTART_UNROLL _Pragma("GCC unroll 16")

namespace jumpstart {
namespace JUMPSTART_ISA {

// Mask bits of a vector, and of the first `width` of its lanes.
template <int lanes>
JUMPSTART_INLINE void store_bits(uint8_t* to, uint32_t bits) {
  std::memcpy(to, &bits, lanes / 8);
}
JUMPSTART_INLINE void store_bits(uint8_t* to, uint32_t bits, int width) {
  std::memcpy(to, &bits, 1);
  if (width > 8) to[1] = static_cast<uint8_t>(bits >> 8);
}
template <int lanes>
JUMPSTART_INLINE uint32_t load_bits(const uint8_t* from) {
  uint32_t bits = 0;
  std::memcpy(&bits, from, lanes / 8);
  return bits;
}
JUMPSTART_INLINE uint32_t load_bits(const uint8_t* from, int width) {
  return width > 8 ? from[0] | static_cast<uint32_t>(from[1]) << 8 : from[0];
}

// One matrix row value by value, as far as the vectors may differ: where it holds a NaN.
template <typename scalar_t>
void exact_relu(const scalar_t* x, scalar_t* output, uint8_t* mask, int64_t columns) {
  for (int64_t column = 0; column < columns; ++column) {
    const bool positive = !(to_float(x[column]) <= 0);
    const unsigned before = column % 8 ? mask[column / 8] : 0u;
    output[column] = positive ? x[column] : scalar_t{};
    mask[column / 8] = static_cast<uint8_t>(before | static_cast<unsigned>(positive) << column % 8);
  }
}

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart

#include "cpu/elementwise.h"
#include "cpu/rows.h"
// A narrow row may turn to the other for its exact extrema.
#include "cpu/narrow_rows.h"
#include "cpu/planes.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, bool store>
void forward_range(const Forward& f, Partial<typename VectorOf<scalar_t>::stat_t>& partial) {
  if (f.layout.inner > 1) {
    Planes<scalar_t, store>(f, partial).run();
  } else if (NarrowRows<scalar_t, store>::fits(f, partial)) {
    NarrowRows<scalar_t, store>(f, partial).run();
  } else {
    Rows<scalar_t, store>(f, partial).run();
  }
  if (f.stream) VectorOf<scalar_t>::fence();
}

template <typename scalar_t>
void forward(const Forward& f, void* partial) {
  auto& p = *static_cast<Partial<typename VectorOf<scalar_t>::stat_t>*>(partial);
  f.output ? forward_range<scalar_t, true>(f, p) : forward_range<scalar_t, false>(f, p);
}

static const Kernels table = {
    {forward<float>, forward<double>, forward<Half>, forward<BFloat16>},
    {backward<float>, backward<double>, backward<Half>, backward<BFloat16>},
    {relu<float>, relu<double>, relu<Half>, relu<BFloat16>},
};

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
