// The table of the kernels of one instruction set, included once by its source file.

#pragma once

#include "cpu/bias_sums.h"
#include "cpu/elementwise.h"
#include "cpu/kernels.h"
#include "cpu/linked.h"
#include "cpu/narrow_rows.h"
#include "cpu/planes.h"
#include "cpu/rows.h"
#include "cpu/search.h"
#include "cpu/slacks.h"
#include "cpu/vector.h"

namespace jumpstart {
namespace JUMPSTART_ISA {

template <typename scalar_t, typename Activation, bool with_bias>
void forward(const Forward& f, void* of_task) {
  auto& partial = *static_cast<Partial<typename VectorOf<scalar_t>::stat_t>*>(of_task);
  if (f.layout.inner > 1) {
    Planes<scalar_t, Activation, with_bias>(f, partial).run();
  } else if (NarrowRows<scalar_t, Activation, with_bias>::fits(f, partial)) {
    NarrowRows<scalar_t, Activation, with_bias>(f, partial).run();
  } else {
    Rows<scalar_t, Activation, with_bias>(f, partial).run();
  }
  if (f.stream) VectorOf<scalar_t>::fence();
}

// The four instances of a kernel, by scalar type.
#define JUMPSTART_OF_SCALARS(kernel, ...)                                              \
  {kernel<float, __VA_ARGS__>, kernel<double, __VA_ARGS__>, kernel<Half, __VA_ARGS__>, \
   kernel<BFloat16, __VA_ARGS__>}

template <typename A>
constexpr ActivationKernels kernels_of() {
  if constexpr (has_output<A>) {
    return {{JUMPSTART_OF_SCALARS(forward, A, false), JUMPSTART_OF_SCALARS(forward, A, true)},
            {JUMPSTART_OF_SCALARS(backward, A), JUMPSTART_OF_SCALARS(backward_with_sums, A)},
            {JUMPSTART_OF_SCALARS(inplace, A, false), JUMPSTART_OF_SCALARS(inplace, A, true)}};
  } else {
    return {{JUMPSTART_OF_SCALARS(forward, A, false), JUMPSTART_OF_SCALARS(forward, A, true)}, {}, {}};
  }
}

template <typename A>
constexpr LinkedKernels linked_kernels_of() {
  return {JUMPSTART_OF_SCALARS(linked_forward, A), JUMPSTART_OF_SCALARS(linked_backward, A)};
}

#undef JUMPSTART_OF_SCALARS

#define JUMPSTART_KERNELS(Activation) kernels_of<Activation>(),
#define JUMPSTART_LINKED_KERNELS(Activation) linked_kernels_of<Activation>(),
static constexpr Kernels table = {
    {JUMPSTART_FOR_ACTIVATIONS(JUMPSTART_KERNELS) kernels_of<StatisticsAlone>()},
    {JUMPSTART_FOR_LINKED_ACTIVATIONS(JUMPSTART_LINKED_KERNELS)},
    {search<float>, search<double>, search<Half>, search<BFloat16>},
    slack_kernels<float>(),
    slack_kernels<double>()};
#undef JUMPSTART_KERNELS
#undef JUMPSTART_LINKED_KERNELS

}  // namespace JUMPSTART_ISA
}  // namespace jumpstart
