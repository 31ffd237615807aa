#define JUMPSTART_ISA generic
#include "cpu/kernels_impl.h"

namespace jumpstart {
const Kernels& kernels_default() { return generic::table; }
}  // namespace jumpstart
