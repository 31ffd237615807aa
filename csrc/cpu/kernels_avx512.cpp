#define JUMPSTART_ISA avx512
#include "cpu/kernels_impl.h"

namespace jumpstart {
const Kernels& kernels_avx512() { return avx512::table; }
}  // namespace jumpstart
