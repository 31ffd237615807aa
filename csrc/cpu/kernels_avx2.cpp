#define JUMPSTART_ISA avx2
#if defined(__AVX2__)
#include "cpu/vector_avx2.h"
#else  // no x86 processor: never chosen
#include "cpu/vector_generic.h"
#endif
#include "cpu/kernels_impl.h"

namespace jumpstart {
const Kernels& kernels_avx2() { return avx2::table; }
}  // namespace jumpstart
