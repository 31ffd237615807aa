// Which of the kernels, compiled once for each instruction set, run.

#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace jumpstart {

// Those that this processor has, the best first: "avx512", "avx2", "default".
std::vector<std::string> instruction_sets();

// The one in use: what PyTorch takes itself (ATEN_CPU_CAPABILITY can lower that), until another is chosen.
std::string instruction_set();
// Of instruction_sets(). Not to be called while kernels run.
void use_instruction_set(const std::string& name);

const Kernels& kernels();

}  // namespace jumpstart
