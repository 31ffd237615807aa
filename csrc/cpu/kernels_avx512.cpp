#define JUMPSTART_ISA avx512
#if defined(__AVX512F__)
#include "cpu/vector_avx512.h"
#else  // no x86 processor: never chosen
#include "cpu/vector_generic.h"
#endif
#include "cpu/kernels_impl.h"

namespace jumpstart {
const Kernels& kernels_avx512() { return avx512::table; }
}  // namespace jumpstart
