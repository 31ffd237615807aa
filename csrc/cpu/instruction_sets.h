// Selects the kernels of an instruction set.

#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace jumpstart {

// Those that this processor supports, the best first: "avx512", "avx2", "default".
std::vector<std::string> instruction_sets();

// The one in use; by default the one that PyTorch uses (see ATEN_CPU_CAPABILITY).
std::string instruction_set();
// One of instruction_sets(). Must not be called while kernels run.
void use_instruction_set(const std::string& name);

const Kernels& kernels();

}  // namespace jumpstart
