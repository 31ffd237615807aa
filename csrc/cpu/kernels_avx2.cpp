#define JUMPSTART_ISA avx2
#include "cpu/kernels_impl.h"

namespace jumpstart {
const Kernels& kernels_avx2() { return avx2::table; }
}  // namespace jumpstart
