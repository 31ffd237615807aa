#include "cpu/instruction_sets.h"

#include <ATen/Version.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace jumpstart {
namespace {

const Kernels& kernels_of(const std::string& name) {
  if (name == "avx512") return kernels_avx512();
  if (name == "avx2") return kernels_avx2();
  return kernels_default();
}

std::string preferred() {
  const std::string capability = at::get_cpu_capability(), name = capability == "AVX512" ? "avx512"
                                                                  : capability == "AVX2" ? "avx2"
                                                                                         : "default";
  const auto available = instruction_sets();
  return std::find(available.begin(), available.end(), name) == available.end() ? "default" : name;
}

struct Choice {
  std::string name;
  const Kernels* kernels;
};

Choice& choice() {
  static Choice chosen{preferred(), &kernels_of(preferred())};
  return chosen;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> available;
#if defined(__x86_64__)
  // The features that setup.py compiles for; F16C, which not every compiler can query, comes with AVX2.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    available.push_back("avx512");
  }
  if (avx2) available.push_back("avx2");
#endif
  available.push_back("default");
  return available;
}

std::string instruction_set() { return choice().name; }

void use_instruction_set(const std::string& name) {
  const auto available = instruction_sets();
  TORCH_CHECK_VALUE(std::find(available.begin(), available.end(), name) != available.end(),
                    "this processor has no instruction set ", name);
  choice() = {name, &kernels_of(name)};
}

const Kernels& kernels() { return *choice().kernels; }

}  // namespace jumpstart
