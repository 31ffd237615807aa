// The table of the kernels of one instruction set, included once by its source file.

#pragma once

#include "cpu/elementwise.h"
#include "cpu/kernels.h"
#include "cpu/narrow_rows.h"
#include "cpu/planes.h"
#include "cpu/rows.h"
#include "cpu/search.h"
#include "cpu/slacks.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation>
void forward(const Forward& f, void* of_task) {
  auto& partial = *static_cast<Partial<typename VectorOf<scalar_t>::stat_t>*>(of_task);
  if (f.layout.inner > 1) {
    Planes<scalar_t, Activation>(f, partial).run();
  } else if (NarrowRows<scalar_t, Activation>::fits(f, partial)) {
    NarrowRows<scalar_t, Activation>(f, partial).run();
  } else {
    Rows<scalar_t, Activation>(f, partial).run();
  }
  if (f.stream) VectorOf<scalar_t>::fence();
}

template <typename A>
constexpr ActivationKernels kernels_of() {
  ActivationKernels kernels{
      {forward<float, A>, forward<double, A>, forward<Half, A>, forward<BFloat16, A>}, {}, {}};
  if constexpr (has_output<A>) {
    kernels = {{forward<float, A>, forward<double, A>, forward<Half, A>, forward<BFloat16, A>},
               {backward<float, A>, backward<double, A>, backward<Half, A>, backward<BFloat16, A>},
               {inplace<float, A>, inplace<double, A>, inplace<Half, A>, inplace<BFloat16, A>}};
  }
  return kernels;
}

#define JUMPSTART_KERNELS(Activation) kernels_of<Activation>(),
static constexpr Kernels table = {
    {JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_KERNELS) kernels_of<StatisticsAlone>()},
    {search<float>, search<double>, search<Half>, search<BFloat16>},
    slack_kernels<float>(),
    slack_kernels<double>()};
#undef JUMPSTART_KERNELS

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
